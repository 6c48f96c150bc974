"""The statistics against R: its values, and the script that made them, lie in `reference/`."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tierwise.measure import (
    Interval,
    Samples,
    bca,
    block,
    bootstrap,
    cliffs_delta,
    friedman,
    holm,
    kruskal_conover,
    mcnemar,
    newcombe,
    wilcoxon_p,
)

HERE = Path(__file__).parent / "reference"


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / f"{name}.csv").open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


def values() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows("values"):
        found[row["fixture"]][row["quantity"]] = float(row["value"])
    return found


VALUES = values()


def measured(fixture: str) -> dict[str, Samples]:
    """Per strategy or group, its values and the block of each, as R had them."""
    own = [row for row in rows("measurements") if row["fixture"] == fixture]
    return {
        group: Samples(
            np.array([float(row["value"]) for row in own if row["group"] == group]),
            np.array([int(row["block"]) for row in own if row["group"] == group]),
        )
        for group in sorted({row["group"] for row in own})
    }


def pair_values(fixture: str, quantity: str) -> dict[tuple[str, str], float]:
    found = {}
    for name, value in VALUES[fixture].items():
        kind, *pair = name.split(":")
        if kind == quantity:
            found[pair[0], pair[1]] = value
    assert len(found) > 1
    return found


@pytest.mark.parametrize("fixture", ["grasses", "blocks-plain", "blocks-tied", "blocks-unequal"])
def test_friedman_and_its_pairs_are_those_of_r(fixture: str) -> None:
    expected, test = VALUES[fixture], friedman(block(measured(fixture)))
    assert test.statistic == pytest.approx(expected["friedman"], rel=1e-12)
    assert test.p == pytest.approx(expected["friedman_p"], rel=1e-10)
    assert test.blocks == expected["friedman_blocks"]
    for pair, p in pair_values(fixture, "conover_friedman_holm").items():
        assert test.pair(*pair).p == pytest.approx(p, rel=1e-9), pair


def test_the_fixtures_hold_ties_gaps_and_blocks_of_unequal_size() -> None:
    tied = block(measured("blocks-tied")).medians()
    assert any(len(np.unique(row)) < len(row) for row in tied)
    unequal = measured("blocks-unequal")
    assert len({int((own.block == one).sum()) for own in unequal.values() for one in np.unique(own.block)}) > 3
    assert friedman(block(unequal)).dropped > 0
    sizes = [len(own.block) for own in measured("groups-tied").values()]
    assert sizes == [12, 30, 7, 21]


@pytest.mark.parametrize("fixture", ["mucus", "groups-unequal", "groups-tied"])
def test_kruskal_conover_and_the_effect_size_are_those_of_r(fixture: str) -> None:
    groups = {name: own.latency_s for name, own in measured(fixture).items()}
    raw, adjusted = kruskal_conover(groups), kruskal_conover(groups, adjust=True)
    assert raw.statistic == pytest.approx(VALUES[fixture]["kruskal"], rel=1e-11)
    assert raw.p == pytest.approx(VALUES[fixture]["kruskal_p"], rel=1e-10)
    for quantity, test in (("conover", raw), ("conover_holm", adjusted)):
        for pair, p in pair_values(fixture, quantity).items():
            assert test.pair(*pair).p == pytest.approx(p, rel=1e-9), (quantity, pair)
    for (one, other), delta in pair_values(fixture, "cliffs_delta").items():
        assert cliffs_delta(groups[one], groups[other]).value == pytest.approx(delta, abs=1e-12)


@pytest.mark.parametrize("fixture", ["pairs-plain", "pairs-tied"])
def test_wilcoxon_is_that_of_r(fixture: str) -> None:
    pairs = measured(fixture)
    found = wilcoxon_p(pairs["x"].latency_s, pairs["y"].latency_s)
    assert found == pytest.approx(VALUES[fixture]["wilcoxon_p"], rel=1e-9)


@pytest.mark.parametrize("fixture", [name for name in VALUES if name.startswith("answers")])
def test_mcnemar_and_newcombe_are_those_of_r(fixture: str) -> None:
    cells = [int(count) for count in fixture.split("-")[1:]]
    first = np.repeat([True, True, False, False], cells)
    second = np.repeat([True, False, True, False], cells)
    assert mcnemar(first, second).p == pytest.approx(VALUES[fixture]["mcnemar_p"], rel=1e-10)
    interval = newcombe(float(first.mean()), len(first), float(second.mean()), len(second))
    assert interval.low == pytest.approx(VALUES[fixture]["newcombe_low"], rel=1e-9)
    assert interval.high == pytest.approx(VALUES[fixture]["newcombe_high"], rel=1e-9)


def test_holm_is_that_of_r() -> None:
    p = np.array([0.03, 0.01, 0.05, 0.02, 0.04, 0.01, 0.9])
    np.testing.assert_allclose(holm(p), list(VALUES["holm"].values()), rtol=1e-12)


@pytest.mark.parametrize(("fixture", "statistic"), [("bca-mean", np.mean), ("bca-deviation", scipy.stats.tstd)])
def test_bca_of_the_same_replicates_is_that_of_r(fixture: str, statistic: object) -> None:
    data = measured(fixture)["data"].latency_s
    draws = np.array([float(row["value"]) for row in rows("replicates") if row["fixture"] == fixture])
    left = np.array([statistic(np.delete(data, i)) for i in range(len(data))])
    expected = VALUES[fixture]
    assert statistic(data) == pytest.approx(expected["point"], rel=1e-12)
    found = bca(expected["point"], draws, left)
    assert (found.low, found.high) == pytest.approx((expected["bca_low"], expected["bca_high"]), rel=1e-9)
    # boot.ci interpolates between replicates on another scale: at most one replicate away.
    ordered = np.sort(draws)
    for end, other in ((found.low, expected["boot_low"]), (found.high, expected["boot_high"])):
        assert abs(int(np.searchsorted(ordered, end)) - int(np.searchsorted(ordered, other))) <= 1


def test_resampled_blocks_of_unequal_size_agree_with_boot_up_to_chance() -> None:
    samples, expected = measured("bca-blocks"), VALUES["bca-blocks"]
    found: list[Interval] = [bootstrap(block(samples), seed=seed).ratio("s0", "s1") for seed in range(3)]
    width = expected["boot_high"] - expected["boot_low"]
    for interval in found:
        assert interval.value == pytest.approx(expected["point"], rel=1e-12)
        assert interval.low == pytest.approx(expected["boot_low"], abs=0.12 * width)
        assert interval.high == pytest.approx(expected["boot_high"], abs=0.12 * width)
