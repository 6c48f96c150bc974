"""Everything the page shows, as plain values: the template only places and escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from tierwise._units import format_bytes, format_frac, format_seconds
from tierwise.planner import Evidence
from tierwise.report import _charts as charts
from tierwise.report._advice import Deploying, deploying
from tierwise.report._audit import Audit, audits, unaudited, variants_table
from tierwise.report._charts import PredictionPoint
from tierwise.report._choices import choose, evidence_if_any
from tierwise.report._circumstances import environment_table, links_table, sessions_table, tiers_table
from tierwise.report._decision import short_placement
from tierwise.report._early_exit import exits_table
from tierwise.report._facts import facts, method, reservations, title
from tierwise.report._palette import MEANINGS, STAGE_ORDER, stage_colour
from tierwise.report._part import Drawn, Part, part
from tierwise.report._rates import Rates, rates
from tierwise.report._rows import DecisionRow, decision_rows
from tierwise.report._stages import StageMeans, latencies, stage_means
from tierwise.report._table import Cell, Column, Table
from tierwise.report._verdict import Sentence, best_rows, verdict
from tierwise.study import StudyData

__all__ = ["Card", "Ran", "View", "contents", "view"]


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
class Ran:
    """What only a study that was run here holds, and an import does not."""

    stage_charts: tuple[Drawn, ...]
    stages: list[tuple[str, str, str]]
    stage_table: Table
    exits: Table | None
    rates: Rates | None
    prediction: Drawn | None
    prediction_table: Table
    variants: Table
    audits: tuple[Audit, ...]
    unaudited: tuple[str, ...]
    links: Table
    tiers: Table
    environment: Table | None
    sessions: Table
    deploying: Deploying | None
    folder: str
    campaign_toml: str

    def drawn(self) -> list[Drawn]:
        """The charts it has."""
        views = () if self.rates is None or self.rates.chart is None else self.rates.chart.views
        sent = (drawn for _, drawn in views)
        return [*self.stage_charts, *sent, *(() if self.prediction is None else (self.prediction,))]


@final
@dataclass(frozen=True)
class View:
    """The page. Field by field what ``page/report.html`` reads.

    Attributes:
        parts: One per subject.
        ran: What only a study that was run here holds; None for an import.
    """

    name: str
    title: str
    summary: str
    verdict: tuple[Sentence, ...]
    best: tuple[Card, ...]
    accuracy_known: bool
    facts: list[tuple[str, str]]
    reservations: list[tuple[str, str]]
    contents: list[tuple[str, str]]
    parts: tuple[Part, ...]
    failures: list[tuple[str, str]]
    method: list[str]
    record_count: int
    ran: Ran | None = None

    def drawn(self) -> list[Drawn]:
        """Every chart of the page."""
        return [one for part in self.parts for one in part.drawn()] + (self.ran.drawn() if self.ran else [])


def view(data: StudyData) -> View:
    """Compute the page of a study."""
    evidence = evidence_if_any(data)
    energy = {} if evidence is None else {one.id: one.energy for one in evidence.deployments}
    rows = tuple(replace(row, energy=energy.get(row.strategy)) for row in decision_rows(data))
    choices = None if evidence is None else choose(evidence, evidence.subjects[0])
    only = part(rows, [one.id for one in data.strategies], latencies(data), evidence, choices)
    said = verdict(data, rows)
    ran = _ran(data, rows, evidence, None if choices is None else deploying(choices, data))
    return View(
        name=data.campaign.name,
        title=title(data),
        summary=" ".join("".join(piece.text for piece in sentence) for sentence in said),
        verdict=said,
        best=tuple(_card(data, row) for row in best_rows(data, rows)),
        accuracy_known=any(row.accuracy for row in rows),
        facts=facts(data),
        reservations=reservations(data, rows),
        contents=contents((only,), ran),
        parts=(only,),
        failures=[(row.strategy, row.first_error) for row in rows if row.first_error],
        method=method(data),
        record_count=len(data.records),
        ran=ran,
    )


def _ran(data: StudyData, rows: Sequence[DecisionRow], evidence: Evidence | None, deployed: Deploying | None) -> Ran:
    means = stage_means(data, rows)
    points = _predictions(data, rows)
    used = {stage for entry in means for stage in entry.seconds}
    return Ran(
        stage_charts=(_stages(means, "stages"), _stages(means, "shares")) if means else (),
        stages=[(stage, stage_colour(stage), MEANINGS[stage]) for stage in STAGE_ORDER if stage in used],
        stage_table=_stage_table(means, [stage for stage in STAGE_ORDER if stage in used]),
        exits=exits_table(data),
        rates=rates(data, evidence),
        prediction=_prediction(points) if points else None,
        prediction_table=_prediction_table(points),
        variants=variants_table(data),
        audits=audits(data),
        unaudited=unaudited(data),
        links=links_table(data),
        tiers=tiers_table(data),
        environment=environment_table(data.sessions[0].environment) if data.sessions else None,
        sessions=sessions_table(data),
        deploying=deployed,
        folder=data.directory.name or "study",
        campaign_toml=data.campaign_toml,
    )


def contents(parts: Sequence[Part], ran: Ran | None) -> list[tuple[str, str]]:
    """The sections that the page has: id and name."""
    every = [
        ("decision", "Decision table", True),
        ("advice", "Recommendation", any(one.advice for one in parts)),
        ("deploy", "Deploy it", ran is not None and ran.deploying is not None),
        ("tradeoff", "Accuracy against latency", True),
        ("effects", "Every pair compared", any(one.effects for one in parts)),
        ("stages", "Where the time goes", ran is not None),
        ("exits", "Early exits", ran is not None and ran.exits is not None),
        ("rates", "Coded latents", ran is not None and ran.rates is not None),
        ("spread", "Spread", True),
        ("bandwidth", "Other bandwidths", any(one.bandwidth for one in parts)),
        ("prediction", "Predicted against measured", ran is not None and ran.prediction is not None),
        ("variants", "What was built", ran is not None),
        ("int8", "int8 audit", ran is not None),
        ("calibration", "Links and tiers", ran is not None),
        ("environment", "Environment", ran is not None),
        ("method", "Method", True),
    ]
    return [(id, name) for id, name, there in every if there]


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


def _stages(means: Sequence[StageMeans], id: str) -> Drawn:
    parts = []
    for entry in means:
        stage, seconds = max(entry.seconds.items(), key=lambda item: item[1], default=("nothing", 0.0))
        most = f"most of it {stage} ({format_seconds(seconds)})"
        parts.append(f"{entry.strategy}: {format_seconds(entry.latency_s)}, {most}")
    kind = "shares of the request" if id == "shares" else "mean time"
    spec = charts.stages(means, share=id == "shares")
    return Drawn(id, spec, f"Stacked bars, {kind} per stage. {'; '.join(parts)}.")


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
