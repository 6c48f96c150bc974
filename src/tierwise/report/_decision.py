"""The decision table as cells."""

from __future__ import annotations

from collections.abc import Sequence

from tierwise._units import format_bytes, format_frac, format_seconds
from tierwise.measure import MIN_P99_SAMPLES, Estimate
from tierwise.report._choices import duration_text, energy_text
from tierwise.report._rows import DecisionRow, ends_text
from tierwise.report._table import Cell, Column, Table, Tag

__all__ = ["decision_table", "short_placement"]

_NONE = Cell("–", soft=True)  # noqa: RUF001 - the dash of a table


def decision_table(rows: Sequence[DecisionRow]) -> Table:
    """All of `DecisionRow` that a choice is made on, one row per strategy."""
    throughput = any(row.throughput_per_s is not None for row in rows)
    energy = any(row.energy is not None for row in rows)
    training = any(row.training_s is not None for row in rows)
    cold = any(row.cold_s is not None for row in rows)
    columns = (
        Column("Strategy"),
        Column("p50", numeric=True, unit="95 % interval"),
        Column("p90", numeric=True, unit="95 % interval"),
        Column("p99", numeric=True, unit=f"≥ {MIN_P99_SAMPLES} samples"),
        *((Column("Throughput", numeric=True, unit="answers per second"),) if throughput else ()),
        Column(_metric(rows), numeric=True, unit="95 % interval"),
        Column("Sent", numeric=True, unit="a request"),
        *((Column("Energy", numeric=True, unit="a request"),) if energy else ()),
        Column("Artifact", numeric=True),
        *((Column("Training", numeric=True, unit="CPU time"),) if training else ()),
        *((Column("Cold start", numeric=True, unit="with loading"),) if cold else ()),
        Column("Errors", numeric=True, unit="of requests"),
    )
    cells = tuple(
        (
            _strategy(row),
            _estimate(row.p50),
            _estimate(row.p90),
            _p99(row),
            *((_throughput(row),) if throughput else ()),
            _accuracy(row),
            _sent(row),
            *((_energy(row),) if energy else ()),
            _NONE if row.artifact_bytes is None else Cell(format_bytes(row.artifact_bytes), key=row.artifact_bytes),
            *((_training(row),) if training else ()),
            *((_cold(row),) if cold else ()),
            _errors(row),
        )
        for row in rows
    )
    return Table(
        caption="Strategies compared, the fastest first",
        columns=columns,
        rows=cells,
        sortable=True,
        marked=frozenset(index for index, row in enumerate(rows) if row.on_front),
    )


def short_placement(placement: str) -> str:
    """``mobile|edge`` as ``mobile → edge``."""
    return " → ".join(placement.split("|"))


def _metric(rows: Sequence[DecisionRow]) -> str:
    metric = next((row.metric for row in rows if row.metric), "")
    return {"f1": "F1", "": "Accuracy", "accuracy": "Accuracy"}.get(metric, metric)


def _strategy(row: DecisionRow) -> Cell:
    tags = []
    if row.on_front:
        tags.append(Tag("Pareto", "front"))
    if row.best_of_reach:
        tags.append(Tag(f"best on {row.reach}" if row.reach == row.placement else f"best up to {row.reach}", "best"))
    return Cell(row.chain, note=short_placement(row.placement), key=row.strategy, tags=tuple(tags))


def _estimate(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return _NONE
    return Cell(format_seconds(estimate.value_s), note=ends_text(estimate), key=estimate.value_s)


def _p99(row: DecisionRow) -> Cell:
    if row.p99 is not None or row.p50 is None:
        return _estimate(row.p99)
    return Cell("–", note=f"has {row.answered}", soft=True)  # noqa: RUF001


def _throughput(row: DecisionRow) -> Cell:
    if row.throughput_per_s is None:
        return _NONE
    return Cell(f"{row.throughput_per_s:.3g}", key=row.throughput_per_s)


def _accuracy(row: DecisionRow) -> Cell:
    if row.accuracy is None:
        return Cell("–", note="not measured", soft=True)  # noqa: RUF001
    note = row.accuracy.ends or ("no interval for F1" if row.metric == "f1" else "no interval")
    if row.accuracy_split not in ("test", ""):
        note += f", {row.accuracy_split} split"
    return Cell(format_frac(row.accuracy.value), note=note, key=row.accuracy.value)


def _sent(row: DecisionRow) -> Cell:
    if not row.answered:
        return _NONE
    if row.bytes_up is None or row.bytes_down is None:
        return _NONE
    if not row.bytes_up and not row.bytes_down:
        return Cell("nothing", key=0.0, soft=True)
    return Cell(f"{format_bytes(row.bytes_up)} up", note=f"{format_bytes(row.bytes_down)} down", key=row.bytes_up)


def _energy(row: DecisionRow) -> Cell:
    if row.energy is None:
        return _NONE
    kind = "model" if row.energy.kind == "modelled" else "yes"
    return Cell(energy_text(row.energy), key=row.energy.joules, tags=(Tag(row.energy.kind, kind),))


def _training(row: DecisionRow) -> Cell:
    if row.training_s is None:
        return _NONE
    return Cell(
        duration_text(row.training_s) if row.training_s else "none", key=row.training_s, soft=not row.training_s
    )


def _cold(row: DecisionRow) -> Cell:
    if row.cold_s is None:
        return _NONE
    note = "one start" if row.cold_starts == 1 else f"median of {row.cold_starts}"
    return Cell(format_seconds(row.cold_s), note=note, key=row.cold_s)


def _errors(row: DecisionRow) -> Cell:
    if not row.requests:
        return Cell("–", note="not measured", soft=True)  # noqa: RUF001
    tags = (Tag("too many", "no"),) if row.errors and not row.eligible else ()
    return Cell(str(row.errors), note=f"of {row.requests}", key=float(row.errors), tags=tags)
