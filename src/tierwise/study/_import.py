"""Studies that others made: long CSV files of latencies, accuracies and answers, to evidence."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise.measure import Samples
from tierwise.planner import Deployment, Evidence, Hop, Judged, LinkFigures, Subject, SubjectKind
from tierwise.study._import_answers import read_answers
from tierwise.study._import_rows import Cell, Judgement, check_roles, column, read_accuracies, read_latencies
from tierwise.study._table_file import Table, read_table
from tierwise.topology import Topology

__all__ = ["ImportSpec", "import_evidence"]

_NO_BLOCKS = "the files name no blocks: requests are taken as independent of each other"
_NO_ITEMS = "the files hold no answers to single test items: accuracies cannot be compared item by item"

Key = tuple[str, str, str]


class ImportSpec(Spec, frozen=True, kw_only=True):
    """How an import's files are to be read.

    Attributes:
        name: Name of the study.
        columns: Titles by role (`ROLES`), where a title does not say it.
        unit: Unit of the latencies where the title (``latency_ms``) has none.
        kinds: Kind of inputs by subject.
        baseline: Strategy that accuracy is lost against.
        metric: Accuracy metric that decides; where None each subject's first.
        paired_by_order: Take the k-th rows of the strategies of a subject as one block.
        topology: Links that the bytes crossed, for what-if questions.
    """

    name: str = "import"
    columns: dict[str, str] = {}  # noqa: RUF012 - msgspec copies an empty mutable default
    unit: str | None = None
    kinds: dict[str, SubjectKind] = {}  # noqa: RUF012
    baseline: str = "identity"
    metric: str | None = None
    paired_by_order: bool = False
    topology: Topology | None = None


def import_evidence(
    latency: Path, accuracy: Path, spec: ImportSpec | None = None, *, answers: Path | None = None
) -> Evidence:
    """Read a study from its files. Nothing is written; see `write_evidence`.

    Args:
        latency: One row a request: latency, strategy, tier (``edge``, ``mobile|edge`` or ``Mobile-Edge``), subject;
            optional: kind, block (what was measured side by side), bytes_up, bytes_down (summed over links).
        accuracy: One row a figure: strategy, subject, metric, value in [0, 1] (or a column ``value_percent``);
            optional: tier, items, training_h, artifact_bytes, variant (the column of the third file).
        spec: How to read them.
        answers: One row an item of the test split: item, label (its class), and for each variant, ``strategy@tier`` or
            strategy the class that it answered; a column subject where there are several. None where that is not known:
            then accuracies are compared as independent figures.

    Raises:
        InputError: Anything in the files that is not as described; the message holds file and line.
    """
    spec = spec or ImportSpec()
    times, figures = read_table(latency), read_table(accuracy)
    items = None if answers is None else read_table(answers)
    check_roles(spec.columns, times, figures, *(() if items is None else (items,)))
    cells, kinds = read_latencies(times, spec.columns, spec.unit)
    judgements = read_accuracies(figures, spec.columns)
    _same_strategies(times, figures, cells, judgements)
    names = tuple(dict.fromkeys(subject for subject, _, _ in cells))
    kinds = {**kinds, **spec.kinds}
    if stray := sorted(set(kinds) - set(names)):
        raise InputError(f"a kind must be of a subject in the files ({', '.join(names)})", got=", ".join(stray))
    blocked = column(times, "block", spec.columns) is not None
    paired = blocked or spec.paired_by_order
    own = {key: found for key in cells if (found := _judgement(key, judgements)) is not None}
    judged = {} if items is None else read_answers(items, spec.columns, list(cells), own)
    subjects = tuple(
        Subject(
            name=name,
            kind=kinds.get(name, "unknown"),
            metric=_metric(figures, name, judgements, spec.metric),
            baseline=_baseline(name, spec.baseline, cells),
            paired=paired,
        )
        for name in names
    )
    return Evidence(
        name=spec.name,
        source="import",
        subjects=subjects,
        deployments=tuple(_deployment(key, cell, own[key], judged, spec.topology) for key, cell in cells.items()),
        links=_links(spec.topology),
        samples=_samples(cells, blocked=blocked, by_order=spec.paired_by_order),
        judged=judged,
        notes=(*(() if paired else (_NO_BLOCKS,)), *_items_note(len(judged), len(cells))),
    )


def _items_note(known: int, count: int) -> tuple[str, ...]:
    if not known:
        return (_NO_ITEMS,)
    if known == count:
        return ()
    lacking = count - known
    return (
        f"the files hold no answers to single test items for {lacking} of {count} deployments: their accuracies are "
        "compared as independent figures",
    )


def _judgement(key: Key, judgements: Mapping[Key, Judgement]) -> Judgement | None:
    return judgements.get(key) or judgements.get((key[0], key[1], ""))


def _same_strategies(
    times: Table,
    figures: Table,
    cells: Mapping[Key, Cell],
    judgements: Mapping[Key, Judgement],
) -> None:
    for key in cells:
        if _judgement(key, judgements) is None:
            raise InputError(
                "every strategy with latencies must have an accuracy",
                got=f"none for {key[1]} on {key[2]}, subject {key[0]}",
                where=figures.path,
            )
    measured = {key[:2] for key in cells}
    for judged in judgements:
        if judged not in cells and (judged[2] or judged[:2] not in measured):
            raise InputError(
                "every strategy with an accuracy must have latencies",
                got=f"none for {judged[1]}{' on ' + judged[2] if judged[2] else ''}, subject {judged[0]}",
                where=times.path,
            )


def _metric(table: Table, subject: str, judgements: Mapping[Key, Judgement], metric: str | None) -> str:
    own = [judgement.accuracies for key, judgement in judgements.items() if key[0] == subject]
    wanted = next(iter(own[0])) if metric is None else metric.casefold()
    if not all(wanted in accuracies for accuracies in own):
        raise InputError(
            f"every strategy of subject {subject} must have the metric {wanted}",
            got=" / ".join(sorted({", ".join(accuracies) for accuracies in own})),
            where=table.path,
            fix="Add it, or name a metric that all have with --metric",
        )
    return wanted


def _baseline(subject: str, baseline: str, cells: Mapping[Key, Cell]) -> str:
    names = [strategy for own, strategy, _ in cells if own == subject]
    return next((name for name in names if name.casefold() == baseline.casefold()), "")


def _samples(cells: Mapping[Key, Cell], *, blocked: bool, by_order: bool) -> dict[tuple[str, str], Samples]:
    ids: dict[tuple[str, ...], int] = {}
    samples = {}
    for key, cell in cells.items():
        subject, strategy, placement = key
        names: list[tuple[str, ...]]
        if blocked:
            names = [(subject, block) for block in cell.block]
        elif by_order:
            names = [(subject, str(position)) for position in range(len(cell.latency_s))]
        else:
            names = [(*key, str(position)) for position in range(len(cell.latency_s))]
        numbers = np.array([ids.setdefault(name, len(ids)) for name in names], dtype=np.int64)
        samples[subject, f"{strategy}@{placement}"] = Samples(np.array(cell.latency_s), numbers)
    return samples


def _deployment(
    key: Key,
    cell: Cell,
    judgement: Judgement,
    judged: Mapping[tuple[str, str], Judged],
    topology: Topology | None,
) -> Deployment:
    subject, strategy, placement = key
    answers = judged.get((subject, f"{strategy}@{placement}"))
    items = judgement.items if answers is None else len(answers.labels)
    return Deployment(
        subject=subject,
        id=f"{strategy}@{placement}",
        name=strategy,
        placement=placement,
        tiers=tuple(placement.split("|")),
        accuracies=judgement.accuracies,
        accuracy_items=None if items is None else int(items),
        hops=_hops(placement.split("|"), cell, topology),
        artifact_bytes=None if judgement.artifact_bytes is None else int(judgement.artifact_bytes),
        training_s=None if judgement.training_h is None else 3600 * judgement.training_h,
        requests=len(cell.latency_s),
    )


def _hops(tiers: Sequence[str], cell: Cell, topology: Topology | None) -> tuple[Hop, ...] | None:
    """The links below the topmost tier, where bytes (summed over links) and links are known."""
    if topology is None or not cell.up or not cell.down:
        return None
    names = [tier.name for tier in topology.tiers]
    if not set(tiers) <= set(names):
        raise InputError(f"tiers must be those of topology {topology.name}: {', '.join(names)}", got="|".join(tiers))
    links = topology.links[: names.index(tiers[-1])]
    up, down = statistics.median(cell.up), statistics.median(cell.down)
    first = names.index(tiers[0])
    return tuple(
        Hop(
            lower=link.lower,
            upper=link.upper,
            up_bytes=up / len(links),
            down_bytes=down / len(links),
            carries="boundary" if len(tiers) > 1 and i >= first else "input",
        )
        for i, link in enumerate(links)
    )


def _links(topology: Topology | None) -> tuple[LinkFigures, ...]:
    return tuple(
        LinkFigures(
            lower=link.lower,
            upper=link.upper,
            up_bps=link.up_bps,
            down_bps=link.down_bps,
            rtt_s=link.rtt_s,
            source="asked",
        )
        for link in (() if topology is None else topology.links)
    )
