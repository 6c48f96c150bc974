"""Effects and paired accuracy against values worked out by hand and those of SciPy."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score

from tierwise._errors import InputError
from tierwise.measure import (
    Interval,
    accuracy_difference,
    cliffs_delta,
    compare_ratio,
    f1_difference,
    mcnemar,
    newcombe,
)


def test_cliffs_delta_from_u_with_ties() -> None:
    # Nine pairs: one greater (3 > 2), six smaller, two equal.
    assert cliffs_delta(np.array([1, 2, 3]), np.array([2, 3, 4])).value == pytest.approx((1 - 6) / 9)
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 9, 40).astype(float), generator.integers(1, 11, 25).astype(float)
    u = scipy.stats.mannwhitneyu(first, second).statistic
    assert cliffs_delta(first, second).value == pytest.approx(2 * u / (40 * 25) - 1)
    assert cliffs_delta(second, first).value == pytest.approx(-cliffs_delta(first, second).value)


@pytest.mark.parametrize(
    ("above", "band"),
    [(1146, "negligible"), (1148, "small"), (1328, "small"), (1332, "medium"), (1472, "medium"), (1475, "large")],
)
def test_bands(above: int, band: str) -> None:
    # One value against 2000, `above` of which are smaller: delta = (above - (2000 - above)) / 2000.
    second = np.concatenate([np.zeros(above), np.full(2000 - above, 2.0)])
    delta = cliffs_delta(np.array([1.0]), second)
    assert delta.value == pytest.approx(above / 1000 - 1)
    assert delta.band == band
    assert cliffs_delta(-np.array([1.0]), -second).band == band


def test_an_effect_needs_two_samples() -> None:
    with pytest.raises(InputError, match="0 and 1 values"):
        cliffs_delta(np.array([]), np.array([1.0]))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.96, 1.04, "equivalent"),
        (0.96, 0.99, "equivalent"),  # certain, and too small to matter
        (0.90, 0.99, "faster"),
        (1.01, 1.20, "slower"),
        (0.90, 1.04, "undecided"),
        (0.99, 1.06, "undecided"),
    ],
)
def test_no_difference_is_a_claim(low: float, high: float, verdict: str) -> None:
    assert compare_ratio(Interval(value=(low + high) / 2, low=low, high=high), 0.05) == verdict


def test_a_margin_is_positive() -> None:
    with pytest.raises(InputError, match="margin"):
        compare_ratio(Interval(value=1, low=1, high=1), 0)


def right(both: int, first: int, second: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, first, second, none])
    return a, np.repeat([True, False, True, False], [both, first, second, none])


def test_mcnemar_gives_the_value_by_hand() -> None:
    # Agresti 1990, p. 350, approval ratings; by hand: (|150 - 86| - 1)^2 / 236 = 16.82, p = 4.115e-05.
    test = mcnemar(*right(794, 150, 86, 570))
    assert test.p == pytest.approx(scipy.stats.chi2.sf((64 - 1) ** 2 / 236, 1))
    assert (test.only_first, test.only_second, test.items, test.exact) == (150, 86, 1600, False)
    assert mcnemar(*right(794, 86, 150, 570)).p == pytest.approx(4.115e-05, rel=1e-3)


def test_mcnemar_is_exact_for_few_discordant_items() -> None:
    test = mcnemar(*right(50, 1, 8, 3))
    assert test.exact
    assert test.p == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(*right(5, 0, 0, 5)).p == 1.0
    with pytest.raises(InputError, match="same items"):
        mcnemar(np.array([True]), np.array([True, False]))


def test_paired_bootstrap_of_accuracy_covers_and_beats_the_unpaired_one() -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        kind = generator.choice(4, 400, p=[0.8, 0.08, 0.04, 0.08])
        first, second = np.isin(kind, [0, 1]), np.isin(kind, [0, 2])
        interval = accuracy_difference(first, second, draws=499, seed=trial)
        hits += interval.holds(0.04)
    assert 0.91 <= hits / 300 <= 0.98
    unpaired = newcombe(first.mean(), 400, second.mean(), 400)
    assert interval.high - interval.low < unpaired.high - unpaired.low


def test_newcombe_gives_the_published_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17: 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    interval = newcombe(56 / 70, 70, 48 / 80, 80)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_f1_difference_is_that_of_sklearn_with_an_interval_over_items() -> None:
    generator = np.random.default_rng(4)
    positive = generator.random(400) < 0.3
    first = np.where(generator.random(400) < 0.9, positive, ~positive)
    second = np.where(generator.random(400) < 0.75, positive, ~positive)
    found = f1_difference(first, second, positive)
    assert found.value == pytest.approx(f1_score(positive, first) - f1_score(positive, second))
    assert 0 < found.low < found.value < found.high
    # The same interval by resampling items one by one, with the plain percentile instead of BCa.
    drawn = generator.integers(0, 400, (1000, 400))
    gaps = [f1_score(positive[i], first[i]) - f1_score(positive[i], second[i]) for i in drawn]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])), abs=0.015)


def test_f1_without_a_hit_is_zero_and_items_must_agree() -> None:
    nothing, everything = np.zeros(20, bool), np.ones(20, bool)
    same = f1_difference(nothing, nothing, everything)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert f1_difference(everything, nothing, everything).value == 1
    with pytest.raises(InputError):
        f1_difference(nothing, nothing[:5], everything)
    with pytest.raises(InputError):
        f1_difference(nothing, nothing, everything[:5])
