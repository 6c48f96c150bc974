"""What is asked of a node: how it serves, which part of an artifact it runs, and where parts of an artifact go."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise.runtime._observability import ObservabilitySpec
from tierwise.runtime._security import NodeLimits, SecuritySpec

__all__ = ["Batching", "NodeSpec", "Placed", "Share", "read_share"]

Threads = Annotated[int, msgspec.Meta(ge=1)]


class Batching(Spec, frozen=True, kw_only=True):
    """How a model computes several requests at once.

    Attributes:
        budget_s: Longest that waiting for others and computing with them may take together. Measured times decide how
            much of it is used; a model that gains nothing from batches computes none.
        most_items: Most items computed at once.
        measure_s: Time that measuring the batch curve may take, once, in the background.
    """

    budget_s: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    most_items: Annotated[int, msgspec.Meta(ge=2, le=4096)] = 32
    measure_s: Annotated[float, msgspec.Meta(ge=0)] = 0.5


class Share(Spec, frozen=True, kw_only=True):
    """The part of an artifact that one node runs; travels as JSON in the repository extension's ``config``.

    Attributes:
        segments: Half-open range of the artifact's segments; an empty one only passes requests on. None: all.
        forward: Address (``host:port`` or ``unix:/path``) of the node that runs what comes after; None where nothing
            does.
        forward_model: Name of the model there; None: the same name as here.
        threads: Threads of every session; None: what the node was started with.
        label: What the deployer calls this loading; the node repeats it in the model's metadata.
        batching: How it computes several requests at once; None: as the node does by default.
        priority: Place in the line of requests that do not say theirs: 1 is served first.
        channels: Channels of a coded latent to send, one of the artifact's rates; None: all.
        max_waiting: Requests for the model that may be under way at once, so that the crowd of one leaves the others
            room; more are refused. None: as many as the node takes in all.
        versions: How many versions of the model are served from now on, this one among them; older ones are dropped
            once they have answered what they had begun.
    """

    segments: tuple[int, int] | None = None
    forward: str | None = None
    forward_model: str | None = None
    threads: Threads | None = None
    label: str | None = None
    batching: Batching | None = None
    priority: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 2
    channels: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_waiting: Annotated[int, msgspec.Meta(ge=1)] | None = None
    versions: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1

    def __post_init__(self) -> None:
        """Check the order of the range."""
        if self.segments is not None and not 0 <= self.segments[0] <= self.segments[1]:
            raise ValueError(f"segments must be a range with 0 <= first <= last, but got {list(self.segments)}")


class Placed(Spec, frozen=True, kw_only=True):
    """A share and the node that gets it.

    Attributes:
        control: Address to push the artifact to; it need not be the one that requests come through.
        share: What the node runs.
    """

    control: str
    share: Share


class NodeSpec(Spec, frozen=True, kw_only=True):
    """How a node serves.

    Attributes:
        listen: Addresses, ``host:port`` (port 0: the system picks one) or ``unix:/path``.
        rest: Addresses of the same kinds for the protocol's REST form; none: it speaks gRPC only.
        tier: Name it carries in timings and errors.
        cpus: CPUs to use; None: what quota and affinity allow when a model is loaded.
        threads: Threads of every session; None: the CPUs, rounded down, at least 1. Where it divides the CPUs several
            times, as many requests compute at once; otherwise one does and others wait in the order they came.
        pace_frac: Below 1, computing is stretched to last ``1 / pace_frac`` times as long: the duty-cycle emulation of
            a slower machine.
        repository: Folder for received artifacts, kept when the node ends; None: a temporary one.
        max_message_bytes: Largest request for inference.
        max_waiting: Requests that may be under way at once; more are refused.
        grace_s: Time that requests under way get when the node is told to stop; new ones are refused meanwhile.
        batching: How models compute several requests at once, where their shares do not say; None: they do not.
        observability: What the node tells about itself.
        security: Who may do what.
        limits: How much strangers may take.
        training_folder: Folder below which a training may be told to find its pictures; None: nowhere.
    """

    listen: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("127.0.0.1:8001",)
    rest: tuple[str, ...] = ()
    tier: str = "node"
    cpus: Annotated[float, msgspec.Meta(gt=0)] | None = None
    threads: Threads | None = None
    pace_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    repository: str | None = None
    max_message_bytes: Annotated[int, msgspec.Meta(gt=0)] = 64 << 20
    max_waiting: Annotated[int, msgspec.Meta(gt=0)] = 256
    grace_s: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    batching: Batching | None = None
    observability: ObservabilitySpec = ObservabilitySpec()
    security: SecuritySpec = SecuritySpec()
    limits: NodeLimits = NodeLimits()
    training_folder: str | None = None


def read_share(text: bytes) -> Share:
    """A share from its JSON.

    Raises:
        InputError: It is none.
    """
    try:
        return msgspec.json.decode(text, type=Share)
    except msgspec.DecodeError as error:
        raise InputError(
            f'the config must be JSON of a share, such as {{"segments": [0, 1]}} ({error})', where="config"
        ) from error
