"""What a page says of training schemes that were compared: how well each learns, and what a step of it takes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tierwise._errors import InputError
from tierwise._units import format_bytes, format_frac, format_seconds
from tierwise.planner import pareto
from tierwise.report._palette import chain_colours
from tierwise.report._part import Drawn
from tierwise.report._table import Cell, Column, Table, Tag
from tierwise.report._training_charts import largest_tensors, live_bytes, scatter
from tierwise.training import Trace, Trial

__all__ = ["SchemeRow", "TrainingView", "scheme_rows", "training_view"]


@final
@dataclass(frozen=True)
class SchemeRow:
    """One scheme at the learning rate that its validation split chose.

    Attributes:
        scheme: Its name.
        rate: That learning rate.
        tests: The metric on the test split, by seed.
        memory_bytes: Of a step beyond the frozen weights, as planned.
        step_s: Of a step, measured while compiling.
        macs: Multiply-accumulates of a step.
        trained_values: Numbers that it changes.
        on_front: Whether no other scheme is as good by metric, memory and time, and better by one.
    """

    scheme: str
    rate: float
    tests: tuple[float, ...]
    memory_bytes: int
    step_s: float
    macs: int
    trained_values: int
    on_front: bool

    @property
    def test(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.tests)


@final
@dataclass(frozen=True)
class TrainingView:
    """The page.

    Attributes:
        name: Task.
        facts: What was done, in names and values.
        colours: Of the schemes.
        table: All schemes.
        memory: Metric against memory.
        time: Metric against the time of a step.
        timeline: Memory over one step, of all schemes.
        tensors: What lives when, in the scheme that takes most and in the one that takes least.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    colours: tuple[tuple[str, str], ...]
    table: Table
    memory: Drawn
    time: Drawn
    timeline: Drawn | None
    tensors: tuple[tuple[str, Drawn], ...]

    def drawn(self) -> list[Drawn]:
        """All charts."""
        own = [self.memory, self.time, *(chart for _, chart in self.tensors)]
        return own if self.timeline is None else [*own, self.timeline]


def scheme_rows(trials: Sequence[Trial]) -> list[SchemeRow]:
    """One row for each scheme, in the order of its first trial; the rate is the best on the validation split."""
    rows = []
    for name in dict.fromkeys(one.scheme for one in trials):
        own = [one for one in trials if one.scheme == name]
        rate = max((one for one in own if one.seed == 0), key=lambda one: one.validation, default=own[0]).rate
        chosen = sorted((one for one in own if one.rate == rate), key=lambda one: one.seed)
        first = chosen[0]
        rows.append(
            SchemeRow(
                scheme=name,
                rate=rate,
                tests=tuple(one.test for one in chosen),
                memory_bytes=first.memory_bytes,
                step_s=first.step_s,
                macs=first.macs,
                trained_values=first.trained_values,
                on_front=False,
            )
        )
    front = set(pareto([(row.memory_bytes, row.step_s, -row.test) for row in rows]))
    return [SchemeRow(**{**vars(row), "on_front": i in front}) for i, row in enumerate(rows)]


def training_view(trials: Sequence[Trial], traces: Sequence[Trace]) -> TrainingView:
    """All that the page shows.

    Raises:
        InputError: No trials, or of several tasks.
    """
    if len({one.task for one in trials}) != 1:
        raise InputError(
            "a report of training needs trials of one task", got=sorted({one.task for one in trials}) or "no trials"
        )
    rows = scheme_rows(trials)
    colours = chain_colours([row.scheme for row in rows])
    first = trials[0]
    known = {trace.scheme: trace for trace in traces}
    ordered = [known[row.scheme] for row in rows if row.scheme in known]
    return TrainingView(
        name=first.task,
        facts=(
            ("Task", f"{first.task}; {first.metric} on {first.test_items:,} test items"),
            ("Training", f"{first.steps:,} steps of {first.batch} items, {first.optimiser}, rates along a cosine"),
            ("Rates", "chosen for each scheme by the validation split, with the first seed"),
            ("Seeds", f"{max(len(row.tests) for row in rows)}: orders of items; lines reach from lowest to highest"),
            ("Memory", "of one step beyond the frozen weights, as planned: intermediate tensors and the state"),
            ("Time", "of one step, prefix included, one thread, on the machine that compiled"),
        ),
        colours=tuple(colours.items()),
        table=_table(rows, first.metric),
        memory=_scatter(rows, colours, first.metric, memory=True),
        time=_scatter(rows, colours, first.metric, memory=False),
        timeline=_timeline(ordered, colours) if ordered else None,
        tensors=tuple(_tensors(trace) for trace in _ends(ordered)),
    )


def _table(rows: Sequence[SchemeRow], metric: str) -> Table:
    columns = (
        Column("scheme"),
        Column(metric, numeric=True, unit="test, mean"),
        Column("memory", numeric=True, unit="planned"),
        Column("step", numeric=True, unit="measured"),
        Column("trained", numeric=True, unit="numbers"),
        Column("arithmetic", numeric=True, unit="MACs of a step"),
        Column("rate", numeric=True),
    )
    cells = tuple(
        (
            Cell(row.scheme, key=row.scheme, tags=(Tag("Pareto", "front"),) if row.on_front else ()),
            Cell(format_frac(row.test), note=_ends_text(row.tests), key=row.test),
            Cell(format_bytes(row.memory_bytes), key=row.memory_bytes),
            Cell(format_seconds(row.step_s), key=row.step_s),
            Cell(f"{row.trained_values:,}", key=row.trained_values),
            Cell(f"{row.macs:,}", key=row.macs),
            Cell(f"{row.rate:g}", key=row.rate),
        )
        for row in rows
    )
    marked = frozenset(i for i, row in enumerate(rows) if row.on_front)
    return Table("Training schemes", columns, cells, sortable=True, marked=marked)


def _ends_text(tests: Sequence[float]) -> str:
    return "one seed" if len(tests) == 1 else f"{format_frac(min(tests))} to {format_frac(max(tests))}"


def _scatter(rows: Sequence[SchemeRow], colours: Mapping[str, str], metric: str, *, memory: bool) -> Drawn:
    points = [
        {
            "scheme": row.scheme,
            "at": row.memory_bytes / 1e6 if memory else 1e3 * row.step_s,
            "test": row.test,
            "worst": min(row.tests),
            "best": max(row.tests),
            "shown": format_bytes(row.memory_bytes) if memory else format_seconds(row.step_s),
            "metric": format_frac(row.test),
        }
        for row in rows
    ]
    what = "memory of a step" if memory else "time of a step"
    said = "; ".join(f"{point['scheme']}: {point['shown']}, {point['metric']}" for point in points)
    unit = "MB" if memory else "ms"
    spec = scatter(points, colours, f"{what}, {unit}, logarithmic", f"{metric} on the test split")
    return Drawn("training-memory" if memory else "training-time", spec, f"{metric} against {what}. {said}.")


def _timeline(traces: Sequence[Trace], colours: Mapping[str, str]) -> Drawn:
    said = "; ".join(f"{one.scheme}: {format_bytes(one.peak_bytes)} at most" for one in traces)
    return Drawn("training-timeline", live_bytes(traces, colours), f"Memory over one step. {said}.")


def _ends(traces: Sequence[Trace]) -> list[Trace]:
    """The traces with the highest and the lowest peak."""
    by_peak = sorted(traces, key=lambda one: -one.peak_bytes)
    return by_peak[:1] + by_peak[-1:] if len(by_peak) > 1 else by_peak


def _tensors(trace: Trace) -> tuple[str, Drawn]:
    said = "; ".join(f"{one.name}, {format_bytes(one.bytes)}" for one in trace.largest)
    drawn = Drawn(f"tensors-{trace.scheme}", largest_tensors(trace), f"What lives at the peak: {said}.")
    return f"{trace.scheme}: {format_bytes(trace.peak_bytes)} at its peak", drawn
