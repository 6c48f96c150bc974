"""What a study found, as the report and the planner read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tierwise.artifact import Manifest
from tierwise.measure import Environment, Record, Rest, StageTime, Summary, WarmUp
from tierwise.planner import Cost
from tierwise.study._answers import Answers
from tierwise.study._campaign import Campaign
from tierwise.topology import Scaling, Topology

__all__ = ["CellSummary", "SessionData", "Strategy", "StudyData", "Variant"]


@final
@dataclass(frozen=True)
class Strategy:
    """An operator chain on a placement.

    Attributes:
        id: ``sptq+partition@mobile|edge``; what records carry.
        name: The part before the ``@``: the chain, or the name the campaign gave it.
        chain: Operators as written, ``sptq+partition``.
        placement: Tiers of the segments joined by ``|``, ``mobile|edge``.
        segments: ``segments[i]`` is the tier that segment i runs on.
        path: Every tier a request passes, from the device up to the last segment's; forwarders included.
        variant: Key into `StudyData.variants`.
        predicted: What the cost model says of one request; None where it was not asked. Never a measurement.
    """

    id: str
    name: str
    chain: str
    placement: str
    segments: tuple[str, ...]
    path: tuple[str, ...]
    variant: str
    predicted: Cost | None = None


@final
@dataclass(frozen=True)
class Variant:
    """What a chain produced. Several strategies may share one.

    Attributes:
        key: Name inside the study, unique.
        manifest: Its manifest; `Manifest.accuracy` holds the measured accuracy on the test split.
        digest: SHA-256 of the manifest, which holds the hash of every file.
        directory: Where the artifact lies, relative to the study's directory or absolute.
        artifact_bytes: Bytes of all its files.
        agreement_frac: Share of the answered requests whose class is the one that the same artifact gives when it is
            run here directly, without nodes and links; None before anything was measured.
    """

    key: str
    manifest: Manifest
    digest: str
    directory: str
    artifact_bytes: int
    agreement_frac: float | None = None


@final
@dataclass(frozen=True)
class SessionData:
    """One start of all processes.

    Attributes:
        number: Number of the restart that was planned.
        attempt: 0, or how often it was opened again after an interruption.
        environment: The machine when it began.
        environment_after: The machine when it ended (for throttling counters); None where it was interrupted.
        calibration: What the testbed measured of its links and tiers before use, as plain data
            (`tierwise.testbed.Calibration`).
        warmups: One per strategy.
        rest: What the machine drew with the nodes up and nothing asked of them; None where it has no meter.
    """

    number: int
    attempt: int
    environment: Environment
    environment_after: Environment | None
    calibration: Mapping[str, Any]
    warmups: tuple[WarmUp, ...]
    rest: Rest | None = None


@final
@dataclass(frozen=True)
class CellSummary:
    """All records of one strategy in one scenario.

    Attributes:
        strategy: Its id.
        scenario: Tag of the scenario.
        requests: Warm requests, failed ones included.
        errors: Failed ones among them.
        first_error: Text of the first failure.
        latency: Of warm requests that were answered; None where none was.
        session_medians_s: Median latency of each session, in their order (the replicates).
        cold_starts_s: Session creation plus first request, one figure per cold start.
        cold_load_s: Of each of them, the part that was session creation.
        stages: Mean time per tier and stage over the answered warm requests, in the order of `tierwise.measure.STAGES`.
        bytes_up: Median over answered requests.
        bytes_down: Median over answered requests.
        correct_frac: Share of answered requests with the right class; None where labels are unknown. This is on the
            load inputs (validation split), not the variant's accuracy.
        throughput_per_s: Answered requests per second (Server and Offline; None for SingleStream).
    """

    strategy: str
    scenario: str
    requests: int
    errors: int
    first_error: str | None
    latency: Summary | None
    session_medians_s: tuple[float, ...]
    cold_starts_s: tuple[float, ...]
    cold_load_s: tuple[float, ...]
    stages: tuple[StageTime, ...]
    bytes_up: float
    bytes_down: float
    correct_frac: float | None
    throughput_per_s: float | None

    @property
    def error_frac(self) -> float:
        """Share of failed requests."""
        return self.errors / self.requests if self.requests else 0.0


@final
@dataclass(frozen=True)
class StudyData:
    """A study as it lies on disk; complete or still being measured.

    Attributes:
        directory: Where it lies.
        campaign: What was asked.
        campaign_toml: The campaign as text, to repeat it.
        topology: The topology as asked.
        fitted: The topology as emulated here (CPUs and memory scaled to the machine).
        scaling: By how much.
        task_name: Name of the task.
        task_fingerprint: Hash of all that decides its data and weights.
        metric: ``accuracy`` or ``f1``.
        test_items: Items of the test split that accuracy was measured on.
        load_items: Inputs that the requests were made of (from the validation split).
        strategies: In the order of the campaign.
        variants: By key.
        sessions: In the order they were opened.
        records: In the order they were committed.
        cells: One per strategy that has records, in the order of ``strategies``.
        complete: Whether all that was planned has been measured.
        tierwise_version: Version that wrote it.
        answers: What variants answered to the test items; None where an earlier release examined them.
    """

    directory: Path
    campaign: Campaign
    campaign_toml: str
    topology: Topology
    fitted: Topology
    scaling: Scaling
    task_name: str
    task_fingerprint: str
    metric: str
    test_items: int
    load_items: int
    strategies: tuple[Strategy, ...]
    variants: Mapping[str, Variant]
    sessions: tuple[SessionData, ...]
    records: tuple[Record, ...]
    cells: tuple[CellSummary, ...]
    complete: bool
    tierwise_version: str
    answers: Answers | None = None

    def strategy(self, id: str) -> Strategy:
        """The strategy with this id; KeyError where there is none."""
        for strategy in self.strategies:
            if strategy.id == id:
                return strategy
        raise KeyError(id)
