"""Decisions from evidence whose answer is known beforehand."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tierwise._errors import InputError
from tierwise.measure import Energy, Samples
from tierwise.planner import (
    AccuracyDrop,
    Comparison,
    Deployment,
    Evidence,
    Hop,
    Judged,
    LinkFigures,
    Need,
    Subject,
    check_links,
    decision_table,
    joined,
    recommend,
)

LINK = LinkFigures(lower="mobile", upper="edge", up_bps=8e6, down_bps=8e6, rtt_s=0.01, source="calibrated")


def evidence(
    *rows: tuple[str, float, float], subject: str = "s", n: int = 200, paired: bool = True, **other: object
) -> Evidence:
    """Rows of (id, median seconds, accuracy); latencies are lognormal (3 %) with an input effect that all share."""
    generator = np.random.default_rng(0)
    common = generator.lognormal(0, 0.2, n)
    deployments, samples = [], {}
    for i, (id, median_s, accuracy) in enumerate(rows):
        name, _, placement = id.partition("@")
        energy, training = other.get("energy", {}), other.get("training", {})
        one = Deployment(
            subject=subject,
            id=id,
            name=name,
            placement=placement,
            tiers=("mobile", "edge")[: 1 if placement == "mobile" else 2],
            accuracies={"accuracy": accuracy},
            accuracy_items=other.get("items"),
            hops=other.get("hops", {}).get(id),
            artifact_bytes=1000 * (i + 1),
            training_s=training.get(id, 0.0),
            energy=Energy(joules=energy[id], kind="modelled", source="x") if id in energy else None,
            requests=n,
        )
        deployments.append(one)
        noise = common * generator.lognormal(0, 0.03, n)
        ids = np.arange(n) if paired else np.arange(n) + i * n
        samples[one.key] = Samples(median_s * noise / np.median(noise), ids)
    return Evidence(
        name="made",
        source="study",
        subjects=(Subject(name=subject, kind="image", metric="accuracy", baseline="identity", paired=paired),),
        deployments=tuple(deployments),
        links=other.get("links", ()),
        samples=samples,
        judged=other.get("judged", {}),
    )


THREE = (("identity@mobile", 0.1, 0.90), ("sptq@mobile", 0.05, 0.89), ("distill+sptq@mobile", 0.02, 0.85))


def test_the_fastest_that_fits_with_its_evidence() -> None:
    found = recommend(evidence(*THREE), Need(max_accuracy_drop=AccuracyDrop(frac=0.02)))
    assert found.chosen == "sptq@mobile"
    assert found.why == "smallest p50 latency of those that fit"
    assert found.tied == ()
    assert found.runner_up.second == "identity@mobile"
    assert found.runner_up.verdict == "faster"
    assert found.runner_up.ratio.holds(0.5)
    assert found.runner_up.delta.band == "large"
    assert found.runner_up.p < 1e-4
    assert found.against_baseline.second == "identity@mobile"
    assert (found.tests.blocks, found.tests.dropped) == (200, 0)
    assert [(one.id, one.violations[0].constraint) for one in found.excluded] == [
        ("distill+sptq@mobile", "max-accuracy-drop")
    ]
    assert found.excluded[0].violations[0].text == "5.00 pp > 2.00 pp"


def test_a_relative_drop_is_of_the_baseline() -> None:
    pool = evidence(*THREE)
    assert recommend(pool, Need(max_accuracy_drop=AccuracyDrop(frac=0.05, relative=True))).chosen == "sptq@mobile"
    assert recommend(pool, Need(max_accuracy_drop=AccuracyDrop(frac=0.0556, relative=True))).chosen == (
        "distill+sptq@mobile"
    )
    assert recommend(pool, Need(max_accuracy_drop=AccuracyDrop(frac=0.01))).chosen == "sptq@mobile"  # 1 pp is 1 pp


def test_of_tied_ones_the_one_that_loses_less_is_taken() -> None:
    rows = (("identity@mobile", 0.1, 0.90), ("qat@mobile", 0.0505, 0.895), ("sptq@mobile", 0.05, 0.88))
    found = recommend(evidence(*rows), Need())
    assert found.chosen == "qat@mobile"
    assert "tied with sptq@mobile in p50 latency, and loses 1.50 pp less accuracy" in found.why
    assert [(one.second, one.verdict) for one in found.tied] == [("sptq@mobile", "equivalent")]
    assert found.runner_up.second == "identity@mobile"


def test_at_equal_accuracy_the_one_with_less_training_is_taken() -> None:
    rows = (("identity@mobile", 0.1, 0.90), ("qat@mobile", 0.05, 0.89), ("sptq@mobile", 0.0505, 0.89))
    found = recommend(evidence(*rows, training={"qat@mobile": 3600.0, "sptq@mobile": 5.0}), Need())
    assert found.chosen == "sptq@mobile"
    assert "needs less training" in found.why


def test_each_constraint_excludes_with_its_figures() -> None:
    rows = (*THREE, ("sptq@edge", 0.01, 0.89))
    hop = Hop(lower="mobile", upper="edge", up_bytes=5000, down_bytes=100, carries="input")
    pool = evidence(
        *rows,
        energy={"identity@mobile": 5.0, "sptq@mobile": 1.0},
        training={"distill+sptq@mobile": 7200.0},
        hops={**{id: () for id, _, _ in THREE}, "sptq@edge": (hop,)},
    )
    for need, chosen, excluded in (
        (Need(tiers=("mobile",)), "distill+sptq@mobile", {"sptq@edge": "needs tier edge"}),
        (Need(max_training_s=3600, tiers=("mobile",)), "sptq@mobile", {"distill+sptq@mobile": "2 h > 1 h"}),
        (Need(max_bytes=5000), "distill+sptq@mobile", {"sptq@edge": "5.1 kB > 5 kB"}),
        (Need(max_energy_j=2), "sptq@mobile", {"sptq@edge": "energy is not known", "identity@mobile": "5 J > 2 J"}),
        (Need(max_size_bytes=2000), "sptq@mobile", {"sptq@edge": "4 kB > 2 kB"}),
        (Need(max_latency_s=0.03, tiers=("mobile",)), "distill+sptq@mobile", {"sptq@mobile": "50 ms > 30 ms"}),
    ):
        found = recommend(pool, need)
        assert found.chosen == chosen, need
        texts = {one.id: " ".join(each.text for each in one.violations) for one in found.excluded}
        for id, text in excluded.items():
            assert id in texts
            assert text in texts[id]


def test_other_objectives() -> None:
    pool = evidence(*THREE, energy={"identity@mobile": 1.0, "sptq@mobile": 1.2}, items=1000)
    assert recommend(pool, Need(minimize="energy")).chosen == "identity@mobile"
    assert recommend(pool, Need(minimize="size")).chosen == "identity@mobile"
    assert recommend(pool, Need(minimize="accuracy-drop")).chosen == "sptq@mobile"  # 1 pp of 1000 is none
    sure = evidence(*THREE, items=100_000)
    assert recommend(sure, Need(minimize="accuracy-drop")).chosen == "identity@mobile"
    with pytest.raises(InputError, match="objective energy must be known"):
        recommend(evidence(*THREE), Need(minimize="energy"))


def test_less_accuracy_lost_is_a_claim_when_the_items_say_so() -> None:
    judged = {("s", "identity@mobile"): answered("identity", 95), ("s", "sptq@mobile"): answered("sptq", 70)}
    found = recommend(evidence(*THREE[:2], judged=judged, items=100), Need(minimize="accuracy-drop"))
    assert found.chosen == "identity@mobile"
    assert found.runner_up.accuracy.only_first == 25
    assert found.runner_up.accuracy_difference.holds(0.25)
    assert found.runner_up.accuracy_difference.low > 0.1
    assert {one.id: one.accuracy_paired for one in found.figures}["sptq@mobile"]


def answered(variant: str, right: int) -> Judged:
    """The first so many of 100 test items were answered rightly, half of them of class 1."""
    labels = np.arange(100) % 2
    return Judged(variant, np.where(np.arange(100) < right, labels, 1 - labels), labels)


def test_one_variant_on_two_tiers_is_not_compared_with_itself() -> None:
    judged = {("s", name): answered("identity", 90) for name in ("identity@mobile", "sptq@mobile")}
    found = recommend(evidence(*THREE[:2], judged=judged, items=100), Need())
    assert found.runner_up.accuracy is None
    assert found.runner_up.accuracy_difference is None


def test_f1_is_compared_over_test_items_too() -> None:
    judged = {("s", "identity@mobile"): answered("identity", 95), ("s", "sptq@mobile"): answered("sptq", 70)}
    pool = evidence(*THREE[:2], judged=judged, items=100)
    subject = msgspec.structs.replace(pool.subjects[0], metric="f1")
    renamed = tuple(
        msgspec.structs.replace(one, accuracies={"f1": one.accuracies["accuracy"]}) for one in pool.deployments
    )
    contrast = Comparison(replace(pool, subjects=(subject,), deployments=renamed), subject, Need()).contrast(
        "identity@mobile", "sptq@mobile"
    )
    # Of 50 items of class 1: 47 found and 2 taken for it wrongly, against 35 and 15.
    assert contrast.accuracy_difference.value == pytest.approx(2 * 47 / (49 + 50) - 2 * 35 / (50 + 50))
    assert contrast.accuracy_difference.low > 0


def test_where_nothing_fits_the_nearest_and_what_to_relax() -> None:
    found = recommend(evidence(*THREE), Need(max_latency_s=0.04, max_accuracy_drop=AccuracyDrop(frac=0.02)))
    assert found.chosen is None
    assert found.why == "no deployment fits; the nearest is sptq@mobile"
    nearest, other = found.relaxations
    assert (nearest.id, nearest.violations[0].constraint) == ("sptq@mobile", "max-latency")
    assert nearest.violations[0].got == pytest.approx(0.05, rel=1e-6)
    assert (other.id, other.violations[0].constraint) == ("distill+sptq@mobile", "max-accuracy-drop")
    assert other.violations[0].got == pytest.approx(0.05)
    # Relaxed so far, it fits.
    again = Need(max_latency_s=nearest.violations[0].got, max_accuracy_drop=AccuracyDrop(frac=0.02))
    assert recommend(evidence(*THREE), again).chosen == "sptq@mobile"


def test_a_quantile_needs_its_samples() -> None:
    found = recommend(evidence(*THREE, n=60), Need(at=0.95, max_latency_s=1.0))
    assert found.chosen == "distill+sptq@mobile"
    with pytest.raises(InputError, match="no p99 from 60 requests, 459 are needed"):
        recommend(evidence(*THREE, n=60), Need(at=0.99, max_latency_s=1.0))


def test_the_published_tests_are_labelled() -> None:
    found = recommend(evidence(*THREE), Need(tests="paper"))
    assert found.tests.label.startswith("as published: Kruskal-Wallis")
    assert found.tests.blocks is None
    assert found.runner_up.accuracy is None
    assert found.runner_up.accuracy_p == 1.0  # one pair tells nothing


def test_requests_without_blocks_are_taken_as_independent_and_it_says_so() -> None:
    found = recommend(evidence(*THREE, paired=False), Need())
    assert "Conover with Holm; requests taken as independent" in found.tests.label
    assert found.chosen == "distill+sptq@mobile"
    pair = recommend(evidence(*THREE), Need()).runner_up.ratio
    alone = found.runner_up.ratio
    assert pair.high - pair.low < alone.high - alone.low


def test_the_winner_changes_where_algebra_says() -> None:
    # 100 kB up on 8 Mbit/s: 100 ms and 10 ms round trip; compute 40 ms. On the device: 200 ms.
    hop = Hop(lower="mobile", upper="edge", up_bytes=100_000, down_bytes=0, carries="input", measured_s=0.11)
    rows = (("identity@mobile", 0.2, 0.9), ("identity@edge", 0.15, 0.9))
    pool = evidence(*rows, hops={"identity@mobile": (), "identity@edge": (hop,)}, links=(LINK,))
    found = recommend(pool, Need(margin_frac=1e-6))
    assert found.chosen == "identity@edge"
    borders = {one.axis: [region.low for region in one.regions[1:]] for one in found.sweeps}
    winners = {one.axis: [region.winner for region in one.regions] for one in found.sweeps}
    # 0.05 s + 0.8 Mbit / rate = 0.2 s; 0.14 s + rtt = 0.2 s; 0.05 s + bytes * 1e-6 s = 0.2 s
    assert borders["rate"] == [pytest.approx(8e5 / 0.15, rel=1e-5)]
    assert borders["rtt"] == [pytest.approx(0.06, rel=1e-5)]
    assert borders["input"] == [pytest.approx(150_000, rel=1e-5)]
    assert winners["rate"] == ["identity@mobile", "identity@edge"]
    assert winners["rtt"] == winners["input"] == ["identity@edge", "identity@mobile"]


def test_a_bound_on_latency_moves_with_the_link_too() -> None:
    hop = Hop(lower="mobile", upper="edge", up_bytes=100_000, down_bytes=0, carries="boundary", measured_s=0.11)
    pool = evidence(("identity@edge", 0.15, 0.9), hops={"identity@edge": (hop,)}, links=(LINK,))
    found = recommend(pool, Need(max_latency_s=0.16))
    rate = found.sweeps[0]
    assert [region.winner for region in rate.regions] == [None, "identity@edge"]
    assert rate.regions[1].low == pytest.approx(8e5 / 0.11, rel=1e-5)
    assert [one.axis for one in found.sweeps] == ["rate", "rtt"]  # what crosses is a boundary, not the input


def test_the_link_model_is_checked_on_cells_it_has_not_seen() -> None:
    def hop(up_bytes: float) -> tuple[Hop, ...]:
        measured = up_bytes / 1e6 + 0.01 + 0.002  # 2 ms that the model does not know
        return (
            Hop(lower="mobile", upper="edge", up_bytes=up_bytes, down_bytes=0, carries="input", measured_s=measured),
        )

    hops = {"a@edge": hop(1e3), "b@edge": hop(1e4), "c@edge": hop(1e5)}
    checks = check_links(evidence(*((id, 0.1, 0.9) for id in hops), hops=hops, links=(LINK,)), Subject(
        name="s", kind="image", metric="accuracy", baseline="", paired=True
    ))  # fmt: skip
    assert [one.predicted_s for one in checks] == pytest.approx([0.011, 0.02, 0.11])
    assert [one.error_frac for one in checks] == pytest.approx([-2 / 13, -2 / 22, -2 / 112])
    assert [one.held_out_error_frac for one in checks] == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_decision_table_by_kind_and_tier() -> None:
    one = evidence(*THREE, ("sptq@edge", 0.01, 0.88), subject="one")
    two = evidence(*THREE, ("sptq@edge", 0.5, 0.88), ("only-here@edge", 0.001, 0.9), subject="two")
    both = joined([one, two])
    table = {(line.placement, line.need): line for line in decision_table(both)}
    assert table["mobile", "lowest latency"].choice == "distill+sptq@mobile"
    assert table["mobile", "lowest latency"].speedup == pytest.approx(5, rel=0.01)
    assert table["mobile", "... with at most 1 pp lost"].choice == "sptq@mobile"
    assert table["mobile", "least accuracy lost"].choice == "identity@mobile"
    assert table["any", "lowest latency"].choice == "distill+sptq@mobile"  # sqrt(0.01 * 0.5) s on the edge
    assert table["edge", "lowest latency"].median_s == pytest.approx(math.sqrt(0.01 * 0.5), rel=0.01)
    alone = {(line.placement, line.need): line.choice for line in decision_table(both, "two")}
    assert alone["any", "lowest latency"] == "only-here@edge"
    with pytest.raises(InputError, match="different subjects"):
        joined([one, one])
    with pytest.raises(InputError, match="one of one, two"):
        recommend(both, Need())


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(InputError, match="tiers must be among"):
        recommend(evidence(*THREE), Need(tiers=("moon",)))
    with pytest.raises(InputError, match="needs a baseline"):
        recommend(evidence(("sptq@mobile", 1, 0.9)), Need(max_accuracy_drop=AccuracyDrop(frac=0.1)))
