"""Everything the page shows, as plain values: the template only places and escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_bytes, format_frac, format_seconds
from tierwise.measure import MIN_P99_SAMPLES
from tierwise.report import _charts as charts
from tierwise.report._audit import Audit, audits, unaudited, variants_table
from tierwise.report._charts import PredictionPoint
from tierwise.report._circumstances import environment_table, links_table, sessions_table, tiers_table
from tierwise.report._decision import decision_table, short_placement
from tierwise.report._facts import facts, method, reservations, title
from tierwise.report._palette import MEANINGS, STAGE_ORDER, chain_colours, placement_shapes, stage_colour
from tierwise.report._rows import DecisionRow, decision_rows
from tierwise.report._stages import StageMeans, latencies, stage_means
from tierwise.report._table import Cell, Column, Table
from tierwise.report._verdict import Sentence, best_rows, verdict
from tierwise.study import StudyData

__all__ = ["Card", "Charts", "Drawn", "View", "view"]


@final
@dataclass(frozen=True)
class Drawn:
    """A chart: its id on the page, its specification, and a sentence for those who do not see it."""

    id: str
    spec: charts.Spec
    label: str


@final
@dataclass(frozen=True)
class Charts:
    """The charts there is something to draw in; None for the others."""

    tradeoff: Drawn | None = None
    stages: Drawn | None = None
    shares: Drawn | None = None
    spread: Drawn | None = None
    prediction: Drawn | None = None

    def drawn(self) -> list[Drawn]:
        """Those that exist."""
        every = (self.tradeoff, self.stages, self.shares, self.spread, self.prediction)
        return [one for one in every if one is not None]


@final
@dataclass(frozen=True)
class Card:
    """The best strategy of one reach, as a card."""

    reach: str
    figure: str
    chain: str
    note: str


@final
@dataclass(frozen=True)
class View:
    """The page. Field by field what ``page/report.html`` reads."""

    name: str
    title: str
    summary: str
    verdict: tuple[Sentence, ...]
    best: tuple[Card, ...]
    accuracy_known: bool
    facts: list[tuple[str, str]]
    reservations: list[tuple[str, str]]
    contents: list[tuple[str, str]]
    decision: Table
    decision_note: str
    failures: list[tuple[str, str]]
    charts: Charts
    chains: list[tuple[str, str]]
    placements: list[tuple[str, str]]
    stages: list[tuple[str, str, str]]
    stage_table: Table
    sessions_drawn: bool
    prediction_table: Table
    variants: Table
    audits: tuple[Audit, ...]
    unaudited: tuple[str, ...]
    links: Table
    tiers: Table
    environment: Table | None
    sessions: Table
    method: list[str]
    folder: str
    campaign_toml: str
    record_count: int


def view(data: StudyData) -> View:
    """Compute the page of a study."""
    rows = decision_rows(data)
    means = stage_means(data, rows)
    points = _predictions(data, rows)
    said = verdict(data, rows)
    plotted = [row for row in rows if row.p50 and row.accuracy]
    shapes = placement_shapes([row.placement for row in _in_study_order(data, plotted)])
    colours = chain_colours([row.chain for row in _in_study_order(data, plotted)])
    used = {stage for entry in means for stage in entry.seconds}
    return View(
        name=data.campaign.name,
        title=title(data),
        summary=" ".join("".join(piece.text for piece in sentence) for sentence in said),
        verdict=said,
        best=tuple(_card(data, row) for row in best_rows(data, rows)),
        accuracy_known=any(row.accuracy for row in rows),
        facts=facts(data),
        reservations=reservations(data, rows),
        contents=_contents(bool(points)),
        decision=decision_table(rows),
        decision_note=_decision_note(rows),
        failures=[(row.strategy, row.first_error) for row in rows if row.first_error],
        charts=Charts(
            tradeoff=_tradeoff(plotted, charts.tradeoff(plotted, colours, shapes)) if plotted else None,
            stages=_stages(means, "stages") if means else None,
            shares=_stages(means, "shares") if means else None,
            spread=_spread(data, rows) if means else None,
            prediction=_prediction(points) if points else None,
        ),
        chains=list(colours.items()),
        placements=[(short_placement(name), shape) for name, shape in shapes.items()],
        stages=[(stage, stage_colour(stage), MEANINGS[stage]) for stage in STAGE_ORDER if stage in used],
        stage_table=_stage_table(means, [stage for stage in STAGE_ORDER if stage in used]),
        sessions_drawn=any(len(row.session_medians_s) > 1 for row in rows),
        prediction_table=_prediction_table(points),
        variants=variants_table(data),
        audits=audits(data),
        unaudited=unaudited(data),
        links=links_table(data),
        tiers=tiers_table(data),
        environment=environment_table(data.sessions[0].environment) if data.sessions else None,
        sessions=sessions_table(data),
        method=method(data),
        folder=data.directory.name or "study",
        campaign_toml=data.campaign_toml,
        record_count=len(data.records),
    )


def _contents(predicted: bool) -> list[tuple[str, str]]:
    every = [
        ("decision", "Decision table"), ("tradeoff", "Accuracy against latency"), ("stages", "Where the time goes"),
        ("spread", "Spread"), ("prediction", "Predicted against measured"), ("variants", "What was built"),
        ("int8", "int8 audit"), ("calibration", "Links and tiers"), ("environment", "Environment"),
        ("method", "Method"),
    ]  # fmt: skip
    return [entry for entry in every if predicted or entry[0] != "prediction"]


def _in_study_order(data: StudyData, rows: Sequence[DecisionRow]) -> list[DecisionRow]:
    """Colours and shapes follow the campaign, so that they stay the same when the figures change."""
    order = {strategy.id: index for index, strategy in enumerate(data.strategies)}
    return sorted(rows, key=lambda row: order[row.strategy])


def _card(data: StudyData, row: DecisionRow) -> Card:
    stays = row.reach == data.topology.tiers[0].name
    parts = [f"on {short_placement(row.placement)}" if "|" not in row.placement else short_placement(row.placement)]
    if row.accuracy:
        parts.append(format_frac(row.accuracy.value))
    parts.append(f"{format_bytes(row.bytes_up)} up" if row.bytes_up else "nothing sent up")
    return Card(
        reach=f"Stays on {row.reach}" if stays else f"Goes up to {row.reach}",
        figure=format_seconds(row.p50.value_s) if row.p50 else "",
        chain=row.chain,
        note=", ".join(parts),
    )


def _decision_note(rows: Sequence[DecisionRow]) -> str:
    note = "Rows with a bar at the left are on the Pareto front." if any(row.on_front for row in rows) else ""
    if any(row.p50 and not row.p99 for row in rows):
        note += f" Below {MIN_P99_SAMPLES} samples the largest may well lie under the true p99, so none is given."
    return note.strip()


def _tradeoff(rows: Sequence[DecisionRow], spec: charts.Spec) -> Drawn:
    front = ", ".join(
        f"{row.strategy} ({format_seconds(row.p50.value_s)}, {format_frac(row.accuracy.value)})"
        for row in rows
        if row.on_front and row.p50 and row.accuracy
    )
    return Drawn("tradeoff", spec, f"Scatter chart of accuracy against median latency. On the Pareto front: {front}.")


def _stages(means: Sequence[StageMeans], id: str) -> Drawn:
    parts = []
    for entry in means:
        stage, seconds = max(entry.seconds.items(), key=lambda item: item[1], default=("nothing", 0.0))
        most = f"most of it {stage} ({format_seconds(seconds)})"
        parts.append(f"{entry.strategy}: {format_seconds(entry.latency_s)}, {most}")
    kind = "shares of the request" if id == "shares" else "mean time"
    spec = charts.stages(means, share=id == "shares")
    return Drawn(id, spec, f"Stacked bars, {kind} per stage. {'; '.join(parts)}.")


def _spread(data: StudyData, rows: Sequence[DecisionRow]) -> Drawn:
    shown = [row for row in rows if row.p50 and row.p90]
    parts = [
        f"{row.strategy}: median {format_seconds(row.p50.value_s)}, p90 {format_seconds(row.p90.value_s)}"
        for row in shown
        if row.p50 and row.p90
    ]
    return Drawn("spread", charts.spread(shown, latencies(data)), f"Latency distributions. {'; '.join(parts)}.")


def _predictions(data: StudyData, rows: Sequence[DecisionRow]) -> list[PredictionPoint]:
    found = []
    for row in rows:
        cost = data.strategy(row.strategy).predicted
        if cost is None or row.p50 is None:
            continue
        low, high = row.p50.low_s, row.p50.high_s
        value = row.p50.value_s
        found.append(
            PredictionPoint(
                strategy=row.strategy,
                predicted_s=cost.total_s,
                measured_s=value,
                low_s=value if low is None else low,
                high_s=value if high is None else high,
            )
        )
    return found


def _prediction(points: Sequence[PredictionPoint]) -> Drawn:
    said = "; ".join(
        f"{point.strategy}: {format_seconds(point.predicted_s)} predicted, {format_seconds(point.measured_s)} measured"
        for point in points
    )
    return Drawn("prediction", charts.prediction(points), f"Predicted against measured latency. {said}.")


def _prediction_table(points: Sequence[PredictionPoint]) -> Table:
    rows = tuple(
        (
            Cell(point.strategy),
            Cell(format_seconds(point.predicted_s)),
            Cell(format_seconds(point.measured_s), note=_ends(point)),
            Cell(f"{point.ratio:.3g}"),
        )
        for point in points
    )
    columns = (
        Column("Strategy"),
        Column("Predicted", numeric=True, unit="modelled"),
        Column("Measured p50", numeric=True, unit="95 % interval"),
        Column("Measured / predicted", numeric=True),
    )
    return Table(caption="Predicted and measured latency", columns=columns, rows=rows)


def _ends(point: PredictionPoint) -> str:
    return f"{format_seconds(point.low_s)} to {format_seconds(point.high_s)}"


def _stage_table(means: Sequence[StageMeans], used: Sequence[str]) -> Table:
    rows = tuple(
        (
            Cell(stage, note=MEANINGS[stage]),
            *(
                Cell(format_seconds(entry.seconds[stage]), note=entry.where.get(stage, ""))
                if stage in entry.seconds
                else Cell("–", soft=True)  # noqa: RUF001 - the dash of a table
                for entry in means
            ),
        )
        for stage in used
    )
    columns = (Column("Stage", wide=True), *(Column(entry.strategy, numeric=True) for entry in means))
    return Table(caption="Mean time by stage", columns=columns, rows=rows)
