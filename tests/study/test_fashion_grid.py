"""What the published study of Fashion-MNIST claims follows from its published requests and answers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tierwise.planner import Comparison, Evidence, Figures, Need, Recommendation, recommend
from tierwise.study import StudyFigures, VariantFigures, import_evidence, load_evidence, write_evidence

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
    evidence = imported()
    return Comparison(evidence, evidence.subjects[0], Need())


def imported() -> Evidence:
    return import_evidence(FOLDER / "latency.csv.gz", FOLDER / "accuracy.csv", answers=FOLDER / "answers.csv.gz")


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


def test_imported_again_it_gives_the_recommendation_of_the_study(tmp_path: Path) -> None:
    published = msgspec.json.decode((FOLDER / "recommend.json").read_bytes(), type=Recommendation)
    evidence = load_evidence(write_evidence(tmp_path / "again", imported()))
    found = recommend(evidence, published.need)
    assert (found.chosen, found.why) == (published.chosen, published.why)
    assert {one.id for one in found.excluded} == {one.id for one in published.excluded}
    assert found.runner_up is not None
    assert published.runner_up is not None
    assert found.runner_up.second == published.runner_up.second
    contrasts = {one.second: one for one in published.tied}
    assert {one.second for one in found.tied} == set(contrasts)
    for one in found.tied:
        assert (one.accuracy, one.p) == (contrasts[one.second].accuracy, pytest.approx(contrasts[one.second].p))
        assert one.accuracy_difference == contrasts[one.second].accuracy_difference
        # Blocks come in another order, which a bootstrap's draws follow.
        assert one.ratio.low == pytest.approx(contrasts[one.second].ratio.low, rel=0.02)
    figures = {one.id: one for one in published.figures}
    assert {one.id for one in found.figures} == set(figures)
    for figure in found.figures:
        assert figure.accuracy_lost_interval == figures[figure.id].accuracy_lost_interval
        assert figure.accuracy_paired == figures[figure.id].accuracy_paired
    assert sum(one.accuracy_paired for one in found.figures) > 40
