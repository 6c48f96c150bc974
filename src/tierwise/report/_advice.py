"""What to deploy for which need, why, and the command that does it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_bytes, format_seconds
from tierwise.measure import Interval
from tierwise.planner import Contrast, Decision, Evidence, Figures, Recommendation
from tierwise.report._choices import WITHIN, Asked, Choices, duration_text, energy_text
from tierwise.report._effects import p_text
from tierwise.report._table import Cell, Column, Table, Tag
from tierwise.study import StudyData
from tierwise.topology import preset_names

__all__ = ["Advice", "Deploying", "advice", "deploying"]

_TIES_NAMED = 3


@final
@dataclass(frozen=True)
class Advice:
    """The recommendation of one subject.

    Attributes:
        chosen: The deployment; empty where none can be recommended.
        within: The budget it was chosen under, in words; empty where no accuracy is known.
        why: One sentence of the planner.
        figures: What is known of it: name and value.
        against: The runner-up and the tied ones: heading and sentence.
        needs: Which deployment for which need.
        table: Every placement, by point estimates.
        notes: What a reader should know.
    """

    chosen: str
    within: str
    why: str
    figures: tuple[tuple[str, str], ...]
    against: tuple[tuple[str, str], ...]
    needs: Table
    table: Table
    notes: tuple[str, ...]


@final
@dataclass(frozen=True)
class Deploying:
    """How to deploy the recommended strategy.

    Attributes:
        strategy: Its id.
        steps: A sentence and the commands that belong to it.
    """

    strategy: str
    steps: tuple[tuple[str, tuple[str, ...]], ...]


def advice(choices: Choices, evidence: Evidence) -> Advice:
    """The recommendation of one subject, with what it was chosen over."""
    found = choices.thrifty or choices.fastest
    chosen = found.chosen or ""
    own = set(evidence.notes)  # these stand at the head of the page
    left = [f"{', '.join(choices.left_out)}: failed too often to take part"] if choices.left_out else []
    return Advice(
        chosen=chosen,
        within=WITHIN if choices.thrifty is not None else "",
        why=found.why,
        figures=tuple(_figures(found.of(chosen), choices.subject.metric)) if chosen else (),
        against=(*_baseline(choices, evidence, found), *_against(found)),
        needs=_needs(choices),
        table=_table(choices.table),
        notes=tuple(dict.fromkeys([note for note in found.notes if note not in own and "what-if" not in note] + left)),
    )


def deploying(choices: Choices, data: StudyData) -> Deploying | None:
    """The commands that deploy what is recommended; None where nothing is."""
    if choices.recommended is None:
        return None
    strategy = data.strategy(choices.recommended)
    named = data.topology.name
    tiers = ", ".join(strategy.path)
    # A preset can be printed again; another topology is the user's own file.
    source = (f"tierwise topologies --show {named} > nodes.toml",) if named in preset_names() else ()
    start = tuple(f"tierwise node --tier {tier} --listen 0.0.0.0:8001" for tier in strategy.path)
    name, folder = shlex.quote(strategy.id), shlex.quote(data.directory.name or "study")
    each = "each of the machines" if len(strategy.path) > 1 else "the machine"
    return Deploying(
        strategy=strategy.id,
        steps=(
            (f"On {each} ({tiers}), start a node; it needs neither torch nor the study.", start),
            (f'In a topology file, give {tiers} the line address = "HOST:8001" of its node.', source),
            (
                "Deploy: its segments are pushed to the nodes and checked end to end with a golden input. With "
                "--dry-run it says what it would do.",
                (f"tierwise deploy {folder} {name} --topology nodes.toml",),
            ),
            ("Take it back when it is no longer wanted.", (f"tierwise undeploy {folder} {name}",)),
        ),
    )


def _figures(one: Figures, metric: str) -> Iterator[tuple[str, str]]:
    if one.latency_s is not None:
        yield "Median latency", _seconds(one.latency_s)
    if one.accuracy is not None:
        yield metric.capitalize() if metric != "f1" else "F1", f"{100 * one.accuracy:.2f} %{_lost(one)}"
    if one.energy is not None:
        above = one.energy.above_idle_j
        part = "" if above is None else f", {above:.2g} J of it above idle"
        yield f"Energy, {one.energy.kind}", f"{energy_text(one.energy)} a request{part}"
    if one.wire_bytes is not None:
        yield "Over links", f"{format_bytes(one.wire_bytes)} a request" if one.wire_bytes else "nothing"
    if one.artifact_bytes is not None:
        yield "Artifact", format_bytes(one.artifact_bytes)
    if one.training_s is not None:
        yield "Training", f"{duration_text(one.training_s)} of CPU time" if one.training_s else "none"


def _seconds(interval: Interval) -> str:
    return f"{format_seconds(interval.value)} [{format_seconds(interval.low)}, {format_seconds(interval.high)}]"


def _lost(one: Figures) -> str:
    if one.accuracy_lost is None:
        return ""
    interval = one.accuracy_lost_interval
    ends = "" if interval is None else f" [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f", {_points(one.accuracy_lost)} lost{ends}"


def _points(frac: float) -> str:
    return f"{100 * frac + 0.0:.2f} pp"


def _baseline(choices: Choices, evidence: Evidence, found: Recommendation) -> Iterator[tuple[str, str]]:
    """The chosen one against the unchanged model, where no other line says it already."""
    if found.chosen is None:
        return
    base = evidence.baseline(choices.deployment(found.chosen))
    told = {one.second for one in (found.runner_up, *found.tied) if one is not None} | {found.chosen}
    if base is not None and base.id not in told and base.id in choices.comparison.deployments:
        yield "Baseline", _contrast(choices.comparison.contrast(found.chosen, base.id))


def _against(found: Recommendation) -> Iterator[tuple[str, str]]:
    if found.runner_up is not None:
        yield "Runner-up", _contrast(found.runner_up)
    for one in found.tied[:_TIES_NAMED]:
        yield "Tied with it", _contrast(one)
    if len(found.tied) > _TIES_NAMED:
        yield "Tied with it", f"and {len(found.tied) - _TIES_NAMED} more"
    if found.chosen is not None and found.runner_up is None and not found.tied:
        yield "Runner-up", "none: nothing else fits"
    for relaxation in found.relaxations:
        yield f"Nearest: {relaxation.id}", "; ".join(one.text for one in relaxation.violations)


def _contrast(one: Contrast) -> str:
    said = {
        "faster": "slower",
        "slower": "faster, but not by what decides here",
        "equivalent": "the same within the margin",
        "undecided": "not told apart",
    }[one.verdict]
    text = (
        f"{one.second} is {said}: the chosen one takes {one.ratio.value:.3f} [{one.ratio.low:.3f}, "
        f"{one.ratio.high:.3f}] of its median, {p_text(one.p)}, Cliff's delta {one.delta.value:+.2f} ({one.delta.band})"
    )
    answers = one.accuracy
    if answers is not None and not answers.only_first and not answers.only_second:
        text += f". Of {answers.items} test items both were right on the same ones"
    elif answers is not None:
        text += (
            f". Of {answers.items} test items {answers.only_first} were right only with the chosen one and "
            f"{answers.only_second} only with the other (McNemar {p_text(answers.p)})"
        )
    gap = one.accuracy_difference
    if gap is not None and gap.low < gap.high:
        text += f", {100 * gap.value:+.2f} pp [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
    return f"{text}."


def _needs(choices: Choices) -> Table:
    columns = (
        Column("Need"),
        Column("Take"),
        Column("Median", numeric=True, unit="95 % interval"),
        Column("Lost", numeric=True, unit=choices.subject.metric),
        Column("Why, and what is tied with it", wide=True),
    )
    return Table(
        caption="Which deployment for which need",
        columns=columns,
        rows=tuple(_need_row(one, choices.recommended) for one in choices.asked),
    )


def _need_row(one: Asked, recommended: str | None) -> tuple[Cell, ...]:
    found = one.found
    if found.chosen is None:
        none = Cell("–", soft=True)  # noqa: RUF001 - the dash of a table
        return (Cell(one.need), Cell("nothing fits", soft=True), none, none, Cell(found.why))
    figures = found.of(found.chosen)
    median = figures.latency_s
    tied = [each.second for each in found.tied]
    named = ", ".join(tied[:_TIES_NAMED]) + (f" and {len(tied) - _TIES_NAMED} more" if len(tied) > _TIES_NAMED else "")
    tags = (Tag("recommended", "best"),) if found.chosen == recommended else ()
    return (
        Cell(one.need),
        Cell(found.chosen, tags=tags),
        Cell(
            format_seconds(figures.median_s),
            note="" if median is None else f"{format_seconds(median.low)} to {format_seconds(median.high)}",
        ),
        Cell("–" if figures.accuracy_lost is None else _points(figures.accuracy_lost)),  # noqa: RUF001
        Cell(found.why[:1].upper() + found.why[1:], note=f"Tied: {named}" if tied else ""),
    )


def _table(lines: Sequence[Decision]) -> Table:
    """One line per placement and choice, since one operator often serves several needs."""
    groups: dict[tuple[str, str | None], list[Decision]] = {}
    for line in lines:
        groups.setdefault((line.placement, line.choice), []).append(line)
    rows = tuple(
        (
            Cell("anywhere" if placement == "any" else placement.replace("|", " → ")),
            Cell(choice or "–"),  # noqa: RUF001
            Cell("; ".join(one.need.replace("...", "the same") for one in own)),
            Cell("–" if own[0].median_s is None else format_seconds(own[0].median_s)),  # noqa: RUF001
            Cell("–" if own[0].speedup is None else f"{own[0].speedup:.2f}"),  # noqa: RUF001
            Cell("–" if own[0].accuracy_lost is None else _points(own[0].accuracy_lost)),  # noqa: RUF001
            Cell("–" if own[0].training_s is None else duration_text(own[0].training_s)),  # noqa: RUF001
        )
        for (placement, choice), own in groups.items()
    )
    columns = (
        Column("Where"),
        Column("Take"),
        Column("For", wide=True),
        Column("Median", numeric=True),
        Column("Speed-up", numeric=True, unit="against the baseline there"),
        Column("Lost", numeric=True),
        Column("Training", numeric=True, unit="CPU time"),
    )
    return Table(caption="Which operator for which need on each placement", columns=columns, rows=rows)
