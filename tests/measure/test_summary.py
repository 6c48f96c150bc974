from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tierwise._errors import InputError
from tierwise.measure import MIN_P99_SAMPLES, quantile, summarise


@pytest.mark.parametrize("n", [1, 2, 5, 6, 10, 29, 100, 459, 1032, 20_000])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_interval_ranks_are_the_narrowest_that_keep_the_tails(n: int, p: float) -> None:
    # Samples 1..n are their own ranks.
    found = quantile(np.arange(1, n + 1, dtype=np.float64), p)
    ranks = np.arange(1, n + 1)
    low = ranks[stats.binom.cdf(ranks - 1, n, p) <= 0.025]
    high = ranks[stats.binom.sf(ranks - 1, n, p) <= 0.025]
    assert found.low_s == (low.max() if low.size else None)
    assert found.high_s == (high.min() if high.size else None)
    assert found.value_s == np.ceil(p * n - 1e-9)


@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (100, 0.9), (500, 0.99)])
def test_intervals_hold_the_true_quantile_as_often_as_they_say(n: int, p: float) -> None:
    generator = np.random.default_rng(1)
    truth = stats.lognorm.ppf(p, 0.8)
    runs = 1500
    held = 0
    for sample in np.sort(stats.lognorm.rvs(0.8, size=(runs, n), random_state=generator), axis=1):
        found = quantile(sample, p)
        held += (found.low_s or 0.0) <= truth <= (found.high_s or np.inf)
    # At least 95 %, with three standard errors of grace, and not needlessly wide.
    assert 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs) <= held / runs <= 0.995


def test_no_p99_from_fewer_than_459_samples() -> None:
    assert 0.99**MIN_P99_SAMPLES < 0.01 < 0.99 ** (MIN_P99_SAMPLES - 1)
    few = summarise(np.linspace(1, 2, MIN_P99_SAMPLES - 1))
    assert few.p99 is None
    assert "no p99: 458 samples, 459 are needed" in few.notes
    enough = summarise(np.linspace(1, 2, MIN_P99_SAMPLES))
    assert enough.p99 is not None
    assert enough.p99.high_s == enough.max_s
    assert not any("p99" in note for note in enough.notes)


def test_summary_of_known_samples_in_any_order() -> None:
    found = summarise([5.0, 1.0, 4.0, 2.0, 3.0, 10.0, 9.0, 8.0, 7.0, 6.0])
    assert (found.n, found.mean_s, found.min_s, found.max_s) == (10, 5.5, 1.0, 10.0)
    assert (found.p50.value_s, found.p50.low_s, found.p50.high_s) == (5.0, 2.0, 9.0)
    assert (found.p90.value_s, found.p90.low_s, found.p90.high_s) == (9.0, 7.0, None)


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_is_made_of_no_samples(wrong: list[float]) -> None:
    with pytest.raises(InputError, match="one finite latency at least"):
        summarise(wrong)
