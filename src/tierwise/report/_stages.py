"""Where the time of a request goes, and where its single latencies lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_seconds
from tierwise.report._palette import OTHER, STAGE_ORDER
from tierwise.report._rows import DecisionRow
from tierwise.study import StudyData

__all__ = ["StageMeans", "latencies", "stage_means"]


@final
@dataclass(frozen=True)
class StageMeans:
    """Mean time of one strategy's requests in each stage.

    Attributes:
        strategy: Its id.
        latency_s: Mean latency.
        seconds: Mean by stage, in the order they are drawn; ``other`` is the latency no stage accounts for.
        where: By stage, the tiers it happened on with their share of it, in words.
    """

    strategy: str
    latency_s: float
    seconds: dict[str, float]
    where: dict[str, str]

    @property
    def total_s(self) -> float:
        """Sum of the stages; above the mean latency only where stages overlapped."""
        return sum(self.seconds.values())


def stage_means(data: StudyData, rows: Sequence[DecisionRow]) -> tuple[StageMeans, ...]:
    """Stage means of the strategies in ``rows`` that have answered requests, in their order."""
    cells = {cell.strategy: cell for cell in data.cells}
    found = []
    for row in rows:
        cell = cells.get(row.strategy)
        if cell is None or row.mean_s is None:
            continue
        seconds = dict.fromkeys(STAGE_ORDER, 0.0)
        tiers: dict[str, list[str]] = {}
        for entry in cell.stages:
            # A stage this version does not know is time all the same.
            stage = entry.stage if entry.stage in seconds else OTHER
            seconds[stage] += entry.seconds
            tiers.setdefault(stage, []).append(f"{entry.tier} {format_seconds(entry.seconds)}")
        seconds[OTHER] += max(0.0, row.mean_s - sum(seconds.values()))
        found.append(
            StageMeans(
                strategy=row.strategy,
                latency_s=row.mean_s,
                seconds={stage: value for stage, value in seconds.items() if value > 0},
                where={stage: ", ".join(parts) for stage, parts in tiers.items()},
            )
        )
    return tuple(found)


def latencies(data: StudyData) -> dict[str, list[float]]:
    """Sorted latencies of answered warm requests, in seconds, by strategy."""
    found: dict[str, list[float]] = {strategy.id: [] for strategy in data.strategies}
    for record in data.records:
        if not record.cold and record.error is None:
            found.setdefault(record.strategy, []).append(record.latency_s)
    return {strategy: sorted(values) for strategy, values in found.items()}
