"""What the published study of Fashion-MNIST claims follows from its published requests and answers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tierwise.planner import Comparison, Figures, Need
from tierwise.study import StudyFigures, VariantFigures, import_evidence

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results" / "fashion-mnist-grid"
OPERATORS = ("identity", "sptq", "qat", "prune", "distill", "early-exit", "partition")
CHAINS = (
    "distill+sptq",
    "distill+sptq+partition",
    "sptq+partition",
    "prune+distill",
    "prune+sptq",
    "prune+qat",
    "qat+partition",
    "early-exit+sptq",
)


@pytest.fixture(scope="module")
def figures() -> StudyFigures:
    return msgspec.json.decode((FOLDER / "figures.json").read_bytes(), type=StudyFigures)


@pytest.fixture(scope="module")
def compared() -> Comparison:
    evidence = import_evidence(FOLDER / "latency.csv.gz", FOLDER / "accuracy.csv")
    return Comparison(evidence, evidence.subjects[0], Need())


def variant(figures: StudyFigures, id: str) -> VariantFigures:
    (one,) = (one for one in figures.strategies if one.id == id)
    return figures.variants[one.variant]


def lost(compared: Comparison, id: str) -> float:
    found: Figures = compared.figures(id)
    assert found.accuracy_lost is not None
    return found.accuracy_lost


def test_every_operator_and_chain_ran_on_every_tier(figures: StudyFigures) -> None:
    assert figures.complete
    places: dict[str, set[str]] = {}
    for one in figures.strategies:
        assert one.errors == 0
        places.setdefault(one.id.split("@")[0], set()).add(one.id.split("@")[1])
    singles = {"mobile", "edge", "cloud"}
    for chain in (*OPERATORS, *CHAINS):
        assert places[chain] >= ({"mobile|edge", "edge|cloud"} if chain.endswith("partition") else singles), chain
    assert "mobile|edge|cloud" in places["sptq+partition"]


def test_a_distilled_quantised_model_is_three_times_faster_on_the_edge(compared: Comparison) -> None:
    ratio = compared.contrast("identity@edge", "distill+sptq@edge").ratio
    assert ratio.low >= 3
    assert lost(compared, "distill+sptq@edge") <= 0.02


def test_structured_pruning_is_twice_as_fast(compared: Comparison) -> None:
    assert compared.contrast("identity@edge", "prune@edge").ratio.low >= 2


def test_training_with_quantisation_loses_no_more_and_leaves_nothing_in_float(
    figures: StudyFigures, compared: Comparison
) -> None:
    assert lost(compared, "qat@edge") <= lost(compared, "sptq@edge")
    assert variant(figures, "qat@edge").int8_macs_frac == 1.0
    assert variant(figures, "qat@edge").float_ops == 0


def test_zeros_buy_no_time(compared: Comparison) -> None:
    ratio = compared.contrast("distill+prune-weights@edge", "distill@edge").ratio
    assert ratio.low > 0.95
    assert ratio.high < 1.05


def test_a_cut_model_answers_as_the_whole_one(compared: Comparison) -> None:
    for chain in ("partition@mobile|edge", "partition@edge|cloud", "partition@mobile|edge|cloud"):
        assert abs(lost(compared, chain)) <= 0.0005, chain
