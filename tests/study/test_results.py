"""Published figures follow from the published requests: what docs/results holds of each study is computed anew."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from statistics import median
from typing import TextIO

import msgspec
import numpy as np
import pytest

from tierwise.measure import quantile, summarise
from tierwise.planner import Comparison, Evidence, Need
from tierwise.study import StrategyFigures, StudyFigures, import_evidence
from tierwise.tasks import score_classes

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
PUBLISHED = sorted(path.parent for path in RESULTS.glob("*/figures.json"))


@pytest.fixture(params=PUBLISHED, ids=lambda folder: folder.name)
def published(request: pytest.FixtureRequest) -> tuple[StudyFigures, Path]:
    folder: Path = request.param
    return msgspec.json.decode((folder / "figures.json").read_bytes(), type=StudyFigures), folder


def table(folder: Path, name: str) -> Path:
    """A published table; large ones are packed."""
    packed = folder / f"{name}.csv.gz"
    return packed if packed.exists() else folder / f"{name}.csv"


def opened(path: Path) -> TextIO:
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")


def evidence(folder: Path) -> Evidence:
    return import_evidence(table(folder, "latency"), folder / "accuracy.csv")


def test_there_are_published_studies() -> None:
    assert PUBLISHED


def test_every_strategy_that_was_asked_for_is_there(published: tuple[StudyFigures, Path]) -> None:
    figures, _ = published
    assert figures.complete
    assert figures.environments
    for one in figures.strategies:
        assert one.requests > 0
        assert figures.variants[one.variant].accuracy, one.id


def test_percentiles_are_those_of_the_requests(published: tuple[StudyFigures, Path]) -> None:
    figures, folder = published
    found = evidence(folder)
    for one in figures.strategies:
        latencies = np.sort(found.samples[figures.task, one.id].latency_s)
        assert len(latencies) == one.requests - one.errors
        assert summarise(latencies) == one.latency
        assert quantile(latencies, 0.95) == one.p95


def test_bytes_and_accuracies_are_those_of_the_tables(published: tuple[StudyFigures, Path]) -> None:
    figures, folder = published
    sent: dict[str, list[int]] = {}
    with opened(table(folder, "latency")) as file:
        for row in csv.DictReader(file):
            sent.setdefault(f"{row['strategy']}@{row['tier']}", []).append(int(row["bytes_up"]))
    deployments = {one.id: one for one in evidence(folder).deployments}
    for one in figures.strategies:
        assert median(sent[one.id]) == one.bytes_up
        variant = figures.variants[one.variant]
        assert deployments[one.id].accuracies == {known.metric: known.value for known in variant.accuracy}
        assert deployments[one.id].artifact_bytes == variant.artifact_bytes
        assert deployments[one.id].training_s == pytest.approx(variant.training_s)


def test_accuracies_follow_from_the_answers_where_they_were_published(published: tuple[StudyFigures, Path]) -> None:
    figures, folder = published
    if not table(folder, "answers").exists():
        # Exported by an earlier release, which kept none: nothing in it may claim to rest on them.
        assert all(one.against_baseline is None or _of_load(one, figures) for one in figures.strategies)
        return
    with opened(table(folder, "answers")) as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["label"]) for row in rows])
    for key in set(rows[0]) - {"item", "label"}:
        (known,) = figures.variants[key].accuracy
        predicted = np.array([int(row[key]) for row in rows])
        assert known.items == len(rows)
        assert score_classes(known.metric, predicted, labels) == known.value


def _of_load(one: StrategyFigures, figures: StudyFigures) -> bool:
    """Whether answers were compared on fewer inputs than the test split has, or not at all."""
    contrast = one.against_baseline
    assert contrast is not None
    return contrast.accuracy is None or contrast.accuracy.items < figures.variants[one.variant].accuracy[0].items


def test_comparisons_are_those_of_the_blocks(published: tuple[StudyFigures, Path]) -> None:
    figures, folder = published
    found = evidence(folder)
    comparison = Comparison(found, found.subjects[0], Need())
    assert comparison.tests == figures.tests
    compared: list[StrategyFigures] = [one for one in figures.strategies if one.against_baseline is not None]
    assert compared
    for one in compared:
        stored = one.against_baseline
        assert stored is not None
        again = comparison.contrast(stored.first, stored.second)
        assert (again.ratio, again.verdict, again.p, again.delta) == (
            stored.ratio,
            stored.verdict,
            stored.p,
            stored.delta,
        )
