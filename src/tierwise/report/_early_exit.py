"""Early exits: how many requests leave early, and what that does to the mean and the tail."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tierwise._units import format_frac, format_seconds
from tierwise.measure import Record, Summary
from tierwise.report._table import Cell, Column, Table
from tierwise.study import Strategy, StudyData

__all__ = ["exit_rate", "exits_table"]

_OPERATOR = "early-exit"
_NONE = Cell("–", soft=True)  # noqa: RUF001 - the dash of a table


def exits_table(data: StudyData) -> Table | None:
    """One row per strategy whose records say that items may leave early; None where there is none."""
    answered: dict[str, list[Record]] = {}
    for record in data.records:
        if not record.cold and record.error is None:
            answered.setdefault(record.strategy, []).append(record)
    rows = tuple(
        _row(data, strategy, own)
        for strategy in data.strategies
        if (own := answered.get(strategy.id)) and exit_rate(own) is not None
    )
    if not rows:
        return None
    columns = (
        Column("Strategy"),
        Column("Exit rate", numeric=True, unit="of the loaded items"),
        Column("Left early", numeric=True, unit="mean latency"),
        Column("Stayed", numeric=True, unit="mean latency"),
        Column("Mean", numeric=True, unit="against without exits"),
        Column("Tail", numeric=True, unit="against without exits"),
    )
    return Table(caption="Early exits", columns=columns, rows=rows)


def exit_rate(records: Sequence[Record]) -> float | None:
    """Mean share of items that left early; None where the model has no exits."""
    shares = [one.exit_frac for one in records if one.exit_frac is not None]
    return statistics.mean(shares) if shares else None


def _row(data: StudyData, strategy: Strategy, own: Sequence[Record]) -> tuple[Cell, ...]:
    rate = exit_rate(own) or 0.0
    left = [one.latency_s for one in own if (one.exit_frac or 0.0) >= 0.5]
    stayed = [one.latency_s for one in own if one.exit_frac is not None and one.exit_frac < 0.5]
    seen, without = _summary(data, strategy.id), _without(data, strategy)
    return (
        Cell(strategy.name, note=strategy.placement.replace("|", " → ")),
        Cell(format_frac(rate), key=rate),
        _mean(left),
        _mean(stayed),
        _NONE if seen is None else _beside(seen.mean_s, None if without is None else without.mean_s, "mean"),
        _tail(seen, without),
    )


def _mean(latencies: Sequence[float]) -> Cell:
    return Cell(format_seconds(statistics.mean(latencies)), note=f"{len(latencies)} requests") if latencies else _NONE


def _without(data: StudyData, strategy: Strategy) -> Summary | None:
    """The same chain without exits on the same placement."""
    chain = "+".join(part for part in strategy.chain.split("+") if part != _OPERATOR) or "identity"
    other = [one.id for one in data.strategies if one.chain == chain and one.placement == strategy.placement]
    return _summary(data, other[0]) if other and chain != strategy.chain else None


def _summary(data: StudyData, id: str) -> Summary | None:
    return next((cell.latency for cell in data.cells if cell.strategy == id), None)


def _tail(seen: Summary | None, without: Summary | None) -> Cell:
    if seen is None:
        return _NONE
    if seen.p99 is not None:
        return _beside(seen.p99.value_s, without.p99.value_s if without and without.p99 else None, "p99")
    return _beside(seen.p90.value_s, without.p90.value_s if without else None, "p90")


def _beside(value: float, before: float | None, name: str) -> Cell:
    change = "" if before is None or before <= 0 else f", {100 * (value / before - 1):+.0f} %"
    return Cell(format_seconds(value), note=f"{name}{change}", key=value)
