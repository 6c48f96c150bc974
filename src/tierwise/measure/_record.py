"""What a request answered and what was seen of it. Measured, never predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import msgspec
import numpy.typing as npt

__all__ = ["STAGES", "Record", "Reply", "StageTime", "SystemUnderTest"]

STAGES = (
    "preprocess",
    "head",
    "middle",
    "infer",
    "encode",
    "uplink",
    "queue",
    "decode",
    "tail",
    "downlink",
    "local",
    "postprocess",
    "network",
)
"""Names of the stages a request goes through, in the order a chart draws them.

``infer`` is the whole uncut model; ``head``, ``middle`` and ``tail`` are the first, an inner and the last segment of a
cut one. ``encode`` and ``decode`` turn tensors into messages and back. ``uplink`` and ``downlink`` lie between two
tiers on one clock; where the clocks differ both together are ``network``; ``local`` is the way between an application
and the node of its own device. ``queue`` is waiting for the executor.
"""


@final
class StageTime(msgspec.Struct, frozen=True, array_like=True):
    """Time that one request spent in one stage.

    Attributes:
        tier: Tier it happened on; for a link, the tier below it.
        stage: One of `STAGES`.
        seconds: How long.
    """

    tier: str
    stage: str
    seconds: float


@final
@dataclass(frozen=True, eq=False)
class Reply:
    """What a system answered to one request, with its own account of it.

    Attributes:
        outputs: Arrays by output name, batch axis first.
        stages: Time per stage; they need not add up to the latency (what is left is not attributed).
        bytes_up: Bytes sent upwards, summed over the links passed.
        bytes_down: Bytes sent downwards, summed over the links passed.
        path: Tiers that took part, from the device upward.
        exit_frac: Share of the request's items that left at an early exit; None where the model has none.
        made_by: Name of the way that made the answer, where several could have; empty where there is one only.
        why: Why that one: ``chosen``, or what the answer is instead of, such as ``fallback: deadline``.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    stages: tuple[StageTime, ...] = ()
    bytes_up: int = 0
    bytes_down: int = 0
    path: tuple[str, ...] = ()
    exit_frac: float | None = None
    made_by: str = ""
    why: str = ""


class SystemUnderTest(Protocol):
    """Whatever answers requests. `issue` is called from several threads at once in the Server and Offline scenarios."""

    @property
    def name(self) -> str:
        """Name its records carry."""
        ...

    def issue(self, sample: int) -> Reply:
        """Send sample number ``sample`` and return when the answer is there; any exception is a failed request."""
        ...


@final
class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request and what became of it. Written once, never edited.

    ``(strategy, scenario, session, round, query, cold)`` names it: no two records of a study agree in all of them.

    Attributes:
        strategy: Name of the system under test.
        scenario: Tag of the scenario: ``single-stream``, ``server`` or ``offline``.
        session: Number of the process restart it was measured in; restarts are the replicates.
        round: Number of the pass over the inputs; for cold starts, which of the session's cold starts.
        query: Number of the request inside its round.
        sample: Index of the input among the loaded ones.
        cold: Whether this is the first request after loading; such records never enter warm latency.
        started_ns: When it was due, on the client's monotonic clock (Server: the scheduled arrival).
        latency_s: From ``started_ns`` to the answer, so that waiting for a turn counts.
        load_s: Session creation before a cold request, summed over tiers; 0 for warm ones.
        stages: Time per stage.
        bytes_up: Bytes sent upwards, summed over links.
        bytes_down: Bytes sent downwards, summed over links.
        prediction: Index of the largest value of the first output; None where the request failed or has no classes.
        correct: Whether that is the label; None where either is unknown.
        exit_frac: Share of the request's items that left at an early exit; None where the model has none.
        error: Why the request failed; None where it did not.
        attempt: How often the session had been opened before (0 unless the study was interrupted in it).
        energy_j: Joules that the meters of the measuring machine counted over the strategy's turn, over its requests
            (SingleStream has one a turn); None where there is no meter, and for cold requests.
        above_idle_j: Of these, what lies above the same machine at rest for as long; noise may make it negative.
    """

    strategy: str
    scenario: str
    session: int
    round: int
    query: int
    sample: int
    cold: bool
    started_ns: int
    latency_s: float
    load_s: float = 0.0
    stages: tuple[StageTime, ...] = ()
    bytes_up: int = 0
    bytes_down: int = 0
    prediction: int | None = None
    correct: bool | None = None
    exit_frac: float | None = None
    error: str | None = None
    attempt: int = 0
    energy_j: float | None = None
    above_idle_j: float | None = None

    @property
    def key(self) -> tuple[str, str, int, int, int, bool]:
        """What names this record in its study."""
        return (self.strategy, self.scenario, self.session, self.round, self.query, self.cold)
