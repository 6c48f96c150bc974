"""Who is told what a node does. This file holds the seam and the observer that keeps silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

from tierwise.runtime._call import Call
from tierwise.runtime._refusal import Code

__all__ = ["Answered", "Forwarded", "Observer", "Refused", "SilentObserver"]


@final
@dataclass(frozen=True)
class Answered:
    """One answered request.

    Attributes:
        model: Model that answered.
        version: Its version.
        received_ns: When the request had arrived, on the host's monotonic clock.
        answered_ns: When its answer was ready to be sent.
        stages: Nanoseconds by (tier, stage), of this node and those above it.
        queue_ns: Time it waited here for its turn.
        batch_size: Items that were computed at once here, others' among them; 0 where nothing was computed here.
        bytes_in: Size of the request's message.
        bytes_out: Size of the answer's message.
        path: Tiers that took part, this one first.
        exit_frac: Share of its items that left at an exit; None where the model has none.
        marks: (stage, began, ended) of this node's stages as they came, on the host's monotonic clock.
    """

    model: str
    version: str
    received_ns: int
    answered_ns: int
    stages: tuple[tuple[str, str, int], ...]
    queue_ns: int
    batch_size: int
    bytes_in: int
    bytes_out: int
    path: tuple[str, ...]
    exit_frac: float | None
    marks: tuple[tuple[str, int, int], ...] = ()


@final
@dataclass(frozen=True)
class Forwarded:
    """One request to the next node, and its answer.

    Attributes:
        link: Address of the next node.
        peer: The tier that node says it is (its address, where it says nothing).
        way_ns: Time on the way, both ways together, without what the node did; None where it does not say.
        bytes_up: Size of the message sent.
        bytes_down: Size of the answer's message.
    """

    link: str
    peer: str
    way_ns: int | None
    bytes_up: int
    bytes_down: int


@final
@dataclass(frozen=True)
class Refused:
    """One refused request.

    Attributes:
        method: What was asked for: ``infer`` or another of `Method`.
        model: The model asked for; may be none of this node's, so bound it before it becomes a label.
        code: What kind of no it was.
        text: What the asker was told.
        took_ns: How long that took.
    """

    method: str
    model: str
    code: Code
    text: str
    took_ns: int


class Observer(Protocol):
    """Told from many threads while requests wait for it: it must be quick and must not raise."""

    def begun(self, call: Call) -> None:
        """A request for inference was let in."""
        ...

    def onward(self, call: Call) -> Mapping[str, str]:
        """Headers for the request that this one causes at the next node (a trace's context, say)."""
        ...

    def forwarded(self, call: Call, forwarded: Forwarded) -> None:
        """The next node has answered what `onward` was asked for."""
        ...

    def forward_failed(self, call: Call, link: str, status: str) -> None:
        """The next node has not; ``status`` is one of gRPC's names."""
        ...

    def answered(self, call: Call, answered: Answered) -> None:
        """A request was answered."""
        ...

    def refused(self, call: Call | None, refused: Refused) -> None:
        """A request was refused; ``call`` is None where it was not one for inference or never got so far."""
        ...

    def loaded(self, model: str, version: str, took_s: float) -> None:
        """A version of a model is served."""
        ...

    def unloaded(self, model: str, version: str) -> None:
        """A version of a model is no longer served."""
        ...

    def failed(self, error: Exception) -> None:
        """Something failed that nobody thought of: a defect. The asker is refused besides."""
        ...

    def exposition(self) -> bytes:
        """All that was counted, in Prometheus' text format; empty where nothing is."""
        ...


@final
class SilentObserver:
    """Does nothing with what it is told."""

    def begun(self, call: Call) -> None:
        """See `Observer.begun`."""

    def onward(self, call: Call) -> Mapping[str, str]:
        """See `Observer.onward`."""
        return {}

    def forwarded(self, call: Call, forwarded: Forwarded) -> None:
        """See `Observer.forwarded`."""

    def forward_failed(self, call: Call, link: str, status: str) -> None:
        """See `Observer.forward_failed`."""

    def answered(self, call: Call, answered: Answered) -> None:
        """See `Observer.answered`."""

    def refused(self, call: Call | None, refused: Refused) -> None:
        """See `Observer.refused`."""

    def loaded(self, model: str, version: str, took_s: float) -> None:
        """See `Observer.loaded`."""

    def unloaded(self, model: str, version: str) -> None:
        """See `Observer.unloaded`."""

    def failed(self, error: Exception) -> None:
        """See `Observer.failed`."""

    def exposition(self) -> bytes:
        """See `Observer.exposition`."""
        return b""
