"""A study's figures as plain files: what to keep of it, to publish, and to compute again elsewhere. No torch."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np

from tierwise._errors import StoreError
from tierwise.artifact import Accuracy
from tierwise.measure import Energy, Environment, Estimate, Record, StageTime, Summary, quantile, summarise
from tierwise.planner import Comparison, Contrast, Cost, LinkFigures, Need, Tests
from tierwise.study._answers import Answers
from tierwise.study._evidence import evidence_of
from tierwise.study._results import CellSummary, Strategy, StudyData, Variant
from tierwise.topology import Scaling, Topology

__all__ = [
    "ACCURACY",
    "ANSWERS",
    "FIGURES",
    "LATENCY",
    "StrategyFigures",
    "StudyFigures",
    "VariantFigures",
    "export_study",
    "study_figures",
]

FIGURES, LATENCY, ACCURACY = "figures.json", "latency.csv", "accuracy.csv"
"""The files of an export; the tables are such as ``tierwise study import`` reads."""

ANSWERS = "answers.csv"
"""One row an item of the test split: its class, and what each variant answered; only where the study kept that."""


@final
class VariantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a chain made.

    Attributes:
        chain: Operators.
        specs: Every option of each operator, as resolved.
        notes: Remarks of the operators.
        accuracy: On the test split.
        int8_macs_frac: Share of the multiply-accumulates that run in int8; None where nothing was quantised.
        int8_ops: Operators with arithmetic that run in int8.
        float_ops: Those that do not.
        macs: Multiply-accumulates of each segment.
        artifact_bytes: Size of all files.
        training_s: CPU seconds of training and calibration.
        agreement_frac: Share of answers over nodes and links that were those of the artifact run directly.
    """

    chain: str
    specs: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    accuracy: tuple[Accuracy, ...]
    int8_macs_frac: float | None
    int8_ops: int | None
    float_ops: int | None
    macs: tuple[int, ...]
    artifact_bytes: int
    training_s: float
    agreement_frac: float | None


@final
class StrategyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a chain on a placement.

    Attributes:
        id: Its name in the study.
        variant: What ran.
        requests: Warm requests.
        errors: Failed ones among them.
        latency: Percentiles of the answered ones, requests taken as independent; None where there are none.
        p95: Likewise.
        session_medians_s: Median of each restart.
        cold_starts_s: Session creation plus first request, of each cold start.
        stages: Mean time per tier and stage.
        bytes_up: Median over requests, summed over links.
        bytes_down: Likewise.
        exit_frac: Share of the items that left at an early exit; None where the model has none.
        energy: Of one request, as its ``kind`` says measured or modelled.
        predicted: What the cost model had said.
        against_baseline: Compared with the baseline, on the same placement where there is one; blocks resampled.
    """

    id: str
    variant: str
    requests: int
    errors: int
    latency: Summary | None
    p95: Estimate | None
    session_medians_s: tuple[float, ...]
    cold_starts_s: tuple[float, ...]
    stages: tuple[StageTime, ...]
    bytes_up: float
    bytes_down: float
    exit_frac: float | None
    energy: Energy | None
    predicted: Cost | None
    against_baseline: Contrast | None


@final
class StudyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a study with their circumstances.

    Attributes:
        name: Of the study.
        complete: Whether all that was planned was measured.
        tierwise_version: That wrote it.
        campaign: The campaign as TOML, to repeat it.
        task: Name of the task.
        task_fingerprint: Hash of its data and weights.
        metric: Of accuracy.
        topology: As asked.
        scaling: By how much the tiers' CPUs were scaled to the machine.
        links: As measured before use, or as asked.
        environments: The machine when each session was opened.
        tests: The test over all strategies.
        variants: By key.
        strategies: In the order of the campaign.
        notes: What a reader should know.
    """

    name: str
    complete: bool
    tierwise_version: str
    campaign: str
    task: str
    task_fingerprint: str
    metric: str
    topology: Topology
    scaling: Scaling
    links: tuple[LinkFigures, ...]
    environments: tuple[Environment, ...]
    tests: Tests | None
    variants: dict[str, VariantFigures]
    strategies: tuple[StrategyFigures, ...]
    notes: tuple[str, ...]


def export_study(data: StudyData, out: Path) -> Path:
    """Write `StudyFigures` as JSON; every answered warm request, accuracy and answer to a test item as CSV.

    From the three tables ``tierwise study import`` makes evidence again, blocks and answers included, so that whoever
    has the files can compute the figures anew.

    Args:
        data: A study with records.
        out: Folder to write into; made where missing. Files of an earlier export are replaced.

    Returns:
        The folder.

    Raises:
        StoreError: Nothing was measured yet, or the folder cannot be written.
    """
    contents = {
        FIGURES: msgspec.json.format(msgspec.json.encode(study_figures(data)), indent=1) + b"\n",
        LATENCY: _latencies(data),
        ACCURACY: _accuracies(data),
    }
    if data.answers is not None:
        contents[ANSWERS] = _answers(data, data.answers)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            stage = out / f".{name}.{os.getpid()}"
            stage.write_bytes(content)
            stage.replace(out / name)
        if ANSWERS not in contents:
            (out / ANSWERS).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"the folder must be writable ({error.strerror})", where=out) from error
    return out


def study_figures(data: StudyData) -> StudyFigures:
    """All figures of a study as one value.

    Raises:
        StoreError: Nothing was measured yet.
    """
    evidence = evidence_of(data)
    comparison = Comparison(evidence, evidence.subjects[0], Need())
    energies = {one.id: one.energy for one in evidence.deployments}
    baselines = {}
    for one in evidence.deployments:
        base = evidence.baseline(one)
        if base is not None and base.id != one.id:
            baselines[one.id] = comparison.contrast(one.id, base.id)
    cells = {cell.strategy: cell for cell in data.cells}
    return StudyFigures(
        name=data.campaign.name,
        complete=data.complete,
        tierwise_version=data.tierwise_version,
        campaign=data.campaign_toml,
        task=data.task_name,
        task_fingerprint=data.task_fingerprint,
        metric=data.metric,
        topology=data.topology,
        scaling=data.scaling,
        links=evidence.links,
        environments=tuple(session.environment for session in data.sessions),
        tests=comparison.tests,
        variants={key: _variant(variant) for key, variant in data.variants.items()},
        strategies=tuple(
            _strategy(
                strategy,
                cells[strategy.id],
                _answered(data, strategy),
                energies[strategy.id],
                baselines.get(strategy.id),
            )
            for strategy in data.strategies
            if strategy.id in energies
        ),
        notes=evidence.notes,
    )


def _variant(variant: Variant) -> VariantFigures:
    manifest = variant.manifest
    coverage = manifest.coverage
    return VariantFigures(
        chain=manifest.provenance.chain,
        specs=tuple(dict(spec) for spec in manifest.provenance.specs),
        notes=manifest.provenance.notes,
        accuracy=tuple(one for one in manifest.accuracy if one.split == "test"),
        int8_macs_frac=None if coverage is None else coverage.int8_macs_frac,
        int8_ops=None if coverage is None else coverage.int8_ops,
        float_ops=None if coverage is None else coverage.float_ops,
        macs=tuple(segment.macs for segment in manifest.segments),
        artifact_bytes=variant.artifact_bytes,
        training_s=manifest.provenance.training_s,
        agreement_frac=variant.agreement_frac,
    )


def _strategy(
    strategy: Strategy, cell: CellSummary, own: Sequence[Record], energy: Energy | None, against: Contrast | None
) -> StrategyFigures:
    latencies = sorted(record.latency_s for record in own)
    left = [record.exit_frac for record in own if record.exit_frac is not None]
    return StrategyFigures(
        id=strategy.id,
        variant=strategy.variant,
        requests=cell.requests,
        errors=cell.errors,
        latency=summarise(latencies) if latencies else None,
        p95=quantile(np.array(latencies), 0.95) if latencies else None,
        session_medians_s=cell.session_medians_s,
        cold_starts_s=cell.cold_starts_s,
        stages=cell.stages,
        bytes_up=cell.bytes_up,
        bytes_down=cell.bytes_down,
        exit_frac=sum(left) / len(left) if left else None,
        energy=energy,
        predicted=strategy.predicted,
        against_baseline=against,
    )


def _answered(data: StudyData, strategy: Strategy) -> list[Record]:
    return [r for r in data.records if r.strategy == strategy.id and not r.cold and r.error is None]


def _latencies(data: StudyData) -> bytes:
    kind = evidence_of(data).subjects[0].kind
    names = {strategy.id: strategy for strategy in data.strategies}
    return _table(
        (
            "subject",
            "kind",
            "strategy",
            "tier",
            "block",
            "latency_s",
            "bytes_up",
            "bytes_down",
            "energy_j",
            "above_idle_j",
        ),
        (
            (
                data.task_name,
                kind,
                names[record.strategy].name,
                names[record.strategy].placement,
                f"{record.session}.{record.round}.{record.query}",
                repr(record.latency_s),
                record.bytes_up,
                record.bytes_down,
                record.energy_j,
                record.above_idle_j,
            )
            for record in data.records
            if not record.cold and record.error is None
        ),
    )


def _accuracies(data: StudyData) -> bytes:
    found = [(one, data.variants[one.variant]) for one in _measured(data)]
    return _table(
        ("subject", "strategy", "tier", "metric", "value", "items", "training_h", "artifact_bytes", "variant"),
        (
            (
                data.task_name,
                strategy.name,
                strategy.placement,
                one.metric,
                repr(one.value),
                one.items,
                repr(variant.manifest.provenance.training_s / 3600),
                variant.artifact_bytes,
                strategy.variant,
            )
            for strategy, variant in found
            for one in variant.manifest.accuracy
            if one.split == "test"
        ),
    )


def _measured(data: StudyData) -> list[Strategy]:
    answered = {record.strategy for record in data.records if not record.cold and record.error is None}
    return [one for one in data.strategies if one.id in answered]


def _answers(data: StudyData, answers: Answers) -> bytes:
    """Of the variants that the other tables know."""
    known = {one.variant for one in _measured(data)}
    names = [name for name in answers.predicted if name in known]
    columns = [answers.predicted[name].tolist() for name in names]
    return _table(
        ("item", "label", *names),
        ([item, *row] for item, row in enumerate(zip(answers.labels.tolist(), *columns, strict=True))),
    )


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(rows)
    return text.getvalue().encode()
