"""What the page shows of one subject: of a study its only one, of an import one of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_frac, format_seconds
from tierwise.measure import MIN_P99_SAMPLES
from tierwise.planner import Evidence, Subject
from tierwise.report import _charts as charts
from tierwise.report._advice import Advice, advice
from tierwise.report._choices import Choices
from tierwise.report._decision import decision_table, short_placement
from tierwise.report._effects import EffectMap, effects
from tierwise.report._palette import chain_colours, placement_shapes
from tierwise.report._region_chart import regions
from tierwise.report._rows import DecisionRow
from tierwise.report._sensitivity import Sensitivity, sensitivity
from tierwise.report._table import Table

__all__ = ["Drawn", "Part", "part"]


@final
@dataclass(frozen=True)
class Drawn:
    """A chart: its id on the page, its specification, and a sentence for those who do not see it."""

    id: str
    spec: charts.Spec
    label: str


@final
@dataclass(frozen=True)
class Part:
    """One subject on the page; what there is nothing to say of is None.

    Attributes:
        name: Its heading; empty where the page has one subject only.
        decision: The decision table.
        decision_note: How to read it.
        tradeoff: Accuracy against latency.
        chains: Chain and colour.
        placements: Placement and shape.
        spread: Latency distributions.
        sessions_drawn: Whether medians of process starts are in that.
        effects: Every pair.
        advice: The recommendation.
        sensitivity: What other links would change.
        bandwidth: The chart of that.
    """

    name: str
    decision: Table
    decision_note: str
    tradeoff: Drawn | None
    chains: list[tuple[str, str]]
    placements: list[tuple[str, str]]
    spread: Drawn | None
    sessions_drawn: bool
    effects: EffectMap | None
    advice: Advice | None
    sensitivity: Sensitivity | None
    bandwidth: Drawn | None

    def drawn(self) -> list[Drawn]:
        """The charts it has."""
        return [one for one in (self.tradeoff, self.spread, self.bandwidth) if one is not None]


def part(
    rows: Sequence[DecisionRow],
    order: Sequence[str],
    latencies_s: Mapping[str, Sequence[float]],
    evidence: Evidence | None,
    choices: Choices | None,
    *,
    subject: Subject | None = None,
    suffix: str = "",
) -> Part:
    """Compute what the page shows of one subject.

    Args:
        rows: Its decision rows, the fastest first.
        order: Strategies as they were given: colours and shapes follow it, so that they outlast a change of figures.
        latencies_s: Sorted latencies by strategy.
        evidence: What ``choices`` were made from; None where nothing has been answered.
        choices: What the planner says; None where too little was measured.
        subject: Named in the heading; None where it is the only one.
        suffix: Behind the ids of its charts.
    """
    plotted = [row for row in rows if row.p50 and row.accuracy]
    ordered = sorted(plotted, key=lambda row: order.index(row.strategy))
    shapes = placement_shapes([row.placement for row in ordered])
    colours = chain_colours([row.chain for row in ordered])
    other = None if choices is None else sensitivity(choices)
    return Part(
        name="" if subject is None else subject.name,
        decision=decision_table(rows),
        decision_note=_decision_note(rows),
        tradeoff=_tradeoff(plotted, charts.tradeoff(plotted, colours, shapes), suffix) if plotted else None,
        chains=list(colours.items()),
        placements=[(short_placement(name), shape) for name, shape in shapes.items()],
        spread=_spread(rows, latencies_s, suffix) if any(row.p50 for row in rows) else None,
        sessions_drawn=any(len(row.session_medians_s) > 1 for row in rows),
        effects=None if choices is None else effects(choices),
        advice=None if choices is None or evidence is None else advice(choices, evidence),
        sensitivity=other,
        bandwidth=None if other is None else _bandwidth(other, suffix),
    )


def _bandwidth(other: Sensitivity, suffix: str) -> Drawn:
    return Drawn(f"bandwidth{suffix}", regions(other.lanes), f"Winner by bandwidth, modelled. {' '.join(other.said)}")


def _decision_note(rows: Sequence[DecisionRow]) -> str:
    note = "Rows with a bar at the left are on the Pareto front." if any(row.on_front for row in rows) else ""
    if any(row.p50 and not row.p99 for row in rows):
        note += f" Below {MIN_P99_SAMPLES} samples the largest may well lie under the true p99, so none is given."
    return note.strip()


def _tradeoff(rows: Sequence[DecisionRow], spec: charts.Spec, suffix: str) -> Drawn:
    front = ", ".join(
        f"{row.strategy} ({format_seconds(row.p50.value_s)}, {format_frac(row.accuracy.value)})"
        for row in rows
        if row.on_front and row.p50 and row.accuracy
    )
    said = f"Scatter chart of accuracy against median latency. On the Pareto front: {front}."
    return Drawn(f"tradeoff{suffix}", spec, said)


def _spread(rows: Sequence[DecisionRow], latencies_s: Mapping[str, Sequence[float]], suffix: str) -> Drawn:
    shown = [row for row in rows if row.p50 and row.p90]
    parts = [
        f"{row.strategy}: median {format_seconds(row.p50.value_s)}, p90 {format_seconds(row.p90.value_s)}"
        for row in shown
        if row.p50 and row.p90
    ]
    return Drawn(f"spread{suffix}", charts.spread(shown, latencies_s), f"Latency distributions. {'; '.join(parts)}.")
