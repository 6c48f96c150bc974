"""The decision table: one row per strategy with everything a choice is made on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from tierwise._units import format_frac, format_seconds, parse_seconds
from tierwise.artifact import Manifest
from tierwise.measure import Energy, Estimate
from tierwise.planner import pareto
from tierwise.study import CellSummary, Strategy, StudyData, Variant

__all__ = [
    "MAX_ERROR_FRAC",
    "DecisionRow",
    "Share",
    "decision_rows",
    "ends_text",
    "estimate_text",
    "ranked",
    "wilson",
]

MAX_ERROR_FRAC = 0.01
"""A strategy that fails more often than this is listed, but neither on the front nor in the verdict: the latency of the
requests that happened to succeed says little about it."""

_Z95 = 1.959963984540054


@final
@dataclass(frozen=True)
class Share:
    """A fraction of items with its 95 % interval.

    Attributes:
        value: In [0, 1].
        low: Lower end; None where no interval is known (F1 is not a share of items).
        high: Upper end; likewise.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def ends(self) -> str:
        """The interval in percent, ``[96.1, 99.1]``; empty where there is none."""
        return "" if self.low is None or self.high is None else f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def text(self) -> str:
        """As ``98.1 % [96.1, 99.1]``."""
        return f"{format_frac(self.value)} {self.ends}".rstrip()


@final
@dataclass(frozen=True)
class DecisionRow:
    """What is known about one strategy.

    Attributes:
        strategy: Its id, ``sptq@edge``.
        chain: Operators as written (or the name the campaign gave them).
        placement: Tiers of its segments, ``mobile|edge``.
        reach: The farthest tier a request goes to.
        requests: Warm requests, failed ones included.
        errors: Failed ones among them.
        first_error: Text of the first failure.
        p50: Median latency of answered warm requests; None where there is none.
        p90: 90th percentile; likewise.
        p99: 99th percentile; None also where there are too few samples for one.
        mean_s: Mean latency; likewise None.
        session_medians_s: Median of each process restart.
        throughput_per_s: Answered requests per second; None in the SingleStream scenario.
        accuracy: Of its variant; None where it was not measured.
        accuracy_split: Split that accuracy refers to; empty where it was not measured, or where an import does not say.
        accuracy_items: Items of that split.
        metric: ``accuracy`` or ``f1``; empty where it was not measured.
        loss_frac: Reference accuracy (of the identity variant, else the best one) minus this one's; None where unknown.
        bytes_up: Bytes sent upwards by a request, summed over links (median); None where unknown.
        bytes_down: Bytes sent downwards, likewise.
        artifact_bytes: Size of its artifact; None where unknown.
        cold_s: Median of session creation plus first request; None where no cold start was measured.
        cold_starts: Number of cold starts.
        energy: Of one request; None where unknown.
        training_s: CPU seconds of training and calibration of its variant; None where unknown.
        on_front: Whether no other strategy is faster at p50 and at least as accurate, or as fast and more accurate.
        best_of_reach: Whether it is the fastest of those with the same ``reach`` that lose no accuracy.
    """

    strategy: str
    chain: str
    placement: str
    reach: str
    requests: int = 0
    errors: int = 0
    first_error: str | None = None
    p50: Estimate | None = None
    p90: Estimate | None = None
    p99: Estimate | None = None
    mean_s: float | None = None
    session_medians_s: tuple[float, ...] = ()
    throughput_per_s: float | None = None
    accuracy: Share | None = None
    accuracy_split: str = ""
    accuracy_items: int = 0
    metric: str = ""
    loss_frac: float | None = None
    bytes_up: float | None = 0.0
    bytes_down: float | None = 0.0
    artifact_bytes: int | None = None
    cold_s: float | None = None
    cold_starts: int = 0
    energy: Energy | None = None
    training_s: float | None = None
    on_front: bool = False
    best_of_reach: bool = False

    @property
    def answered(self) -> int:
        """Warm requests that were answered."""
        return self.requests - self.errors

    @property
    def eligible(self) -> bool:
        """Whether it has a latency and fails rarely enough to be recommended."""
        return self.p50 is not None and self.errors <= MAX_ERROR_FRAC * self.requests

    @property
    def keeps_accuracy(self) -> bool:
        """Whether its measured accuracy is not below the reference; False where either is unknown."""
        return self.loss_frac is not None and self.loss_frac <= 1e-9


def decision_rows(data: StudyData) -> tuple[DecisionRow, ...]:
    """One row per strategy, the fastest at the median first; those without a latency last.

    Accuracy is the variant's on the test split where that was measured, else on the validation split.
    """
    cells = {cell.strategy: cell for cell in data.cells}
    rows = [_row(one, cells.get(one.id), data.variants.get(one.variant)) for one in data.strategies]
    return ranked(_with_loss(rows))


def ranked(rows: Sequence[DecisionRow]) -> tuple[DecisionRow, ...]:
    """Rows in the order of a table, with the Pareto front and the best of each reach marked."""
    ordered = sorted(rows, key=lambda row: (row.p50 is None, row.p50.value_s if row.p50 else 0.0, row.strategy))
    return tuple(_with_marks(ordered))


def wilson(frac: float, items: int) -> tuple[float, float]:
    """The 95 % score interval of a share of independent items (Wilson 1927, JASA 22:209, eq. on p. 210).

    Example:
        >>> low, high = wilson(0.5, 100)
        >>> round(low, 4), round(high, 4)
        (0.4038, 0.5962)
    """
    square = _Z95 * _Z95 / items
    centre = (frac + square / 2) / (1 + square)
    half = _Z95 * math.sqrt(frac * (1 - frac) / items + square / (4 * items)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def estimate_text(estimate: Estimate) -> str:
    """As ``1.23 ms [1.2, 1.26]``."""
    return f"{format_seconds(estimate.value_s)} {ends_text(estimate)}"


def ends_text(estimate: Estimate) -> str:
    """The interval in the unit of its value, ``[1.2, 1.26]``; ``open`` is an end that so few samples cannot give.

    Example:
        >>> ends_text(Estimate(value_s=0.9, low_s=None, high_s=1.25))
        '[open, 1250]'
    """
    unit = parse_seconds(f"1{format_seconds(estimate.value_s).partition(' ')[2]}")
    ends = ("open" if end is None else _figure(end / unit) for end in (estimate.low_s, estimate.high_s))
    return f"[{', '.join(ends)}]"


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _row(strategy: Strategy, cell: CellSummary | None, variant: Variant | None) -> DecisionRow:
    row = DecisionRow(
        strategy=strategy.id,
        chain=strategy.name,
        placement=strategy.placement,
        reach=strategy.path[-1] if strategy.path else strategy.placement,
    )
    if variant is not None:
        row = replace(
            _with_accuracy(row, variant.manifest),
            artifact_bytes=variant.artifact_bytes,
            training_s=variant.manifest.provenance.training_s,
        )
    if cell is None:
        return row
    seen = cell.latency
    cold = sorted(cell.cold_starts_s)
    return replace(
        row,
        requests=cell.requests,
        errors=cell.errors,
        first_error=cell.first_error,
        p50=seen.p50 if seen else None,
        p90=seen.p90 if seen else None,
        p99=seen.p99 if seen else None,
        mean_s=seen.mean_s if seen else None,
        session_medians_s=cell.session_medians_s,
        throughput_per_s=cell.throughput_per_s,
        bytes_up=cell.bytes_up,
        bytes_down=cell.bytes_down,
        cold_s=cold[(len(cold) - 1) // 2] if cold else None,
        cold_starts=len(cold),
    )


def _with_accuracy(row: DecisionRow, manifest: Manifest) -> DecisionRow:
    found = sorted(manifest.accuracy, key=lambda entry: entry.split != "test")
    if not found:
        return row
    best = found[0]
    ends = wilson(best.value, best.items) if best.metric == "accuracy" and best.items > 0 else (None, None)
    return replace(
        row,
        accuracy=Share(best.value, *ends),
        accuracy_split=best.split,
        accuracy_items=best.items,
        metric=best.metric,
    )


def _with_loss(rows: Sequence[DecisionRow]) -> list[DecisionRow]:
    """Rows with what they lose against the unchanged model; where that was not built, against the most accurate one."""
    known = [row for row in rows if row.accuracy]
    unchanged = [row for row in known if row.chain == "identity"]
    reference = max((row.accuracy.value for row in unchanged or known if row.accuracy), default=None)
    return [
        replace(row, loss_frac=reference - row.accuracy.value) if row.accuracy and reference is not None else row
        for row in rows
    ]


def _with_marks(rows: Sequence[DecisionRow]) -> list[DecisionRow]:
    fit = [row for row in rows if row.eligible]
    # Where no accuracy is known at all, latency alone decides; a row that lacks it beside others is not on the front.
    judged = [row for row in fit if row.accuracy] or fit
    points = [(row.p50.value_s, -(row.accuracy.value if row.accuracy else 0.0)) for row in judged if row.p50]
    front = {judged[index].strategy for index in pareto(points)}
    best: dict[str, str] = {}
    for row in fit:  # sorted by p50, so the first of each reach is its fastest
        if row.keeps_accuracy or not any(one.accuracy for one in fit):
            best.setdefault(row.reach, row.strategy)
    chosen = set(best.values())
    return [replace(row, on_front=row.strategy in front, best_of_reach=row.strategy in chosen) for row in rows]
