"""BCa intervals that resample blocks: against SciPy where it can do the same, and against the truth by simulation."""

import numpy as np
import pytest
import scipy.stats

from tierwise._errors import InputError
from tierwise.measure import Samples, block, bootstrap


def two(first: np.ndarray, second: np.ndarray) -> object:
    ids = np.arange(len(first))
    return block({"a": Samples(first, ids), "b": Samples(second, ids)})


def test_the_ratio_agrees_with_scipy_on_pairs() -> None:
    generator = np.random.default_rng(0)
    base = generator.lognormal(0, 0.3, 150)
    first, second = base * generator.lognormal(0.2, 0.1, 150), base * generator.lognormal(0, 0.1, 150)

    def ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(x, axis) / np.median(y, axis)

    ours = bootstrap(two(first, second), draws=9999).ratio("a", "b")
    theirs = scipy.stats.bootstrap(
        (first, second), ratio, paired=True, method="BCa", n_resamples=9999, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(ratio(first, second))
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=6e-3), pytest.approx(theirs.high, abs=6e-3))


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_each_replicate_is_the_quantile_of_the_drawn_blocks(p: float) -> None:
    generator = np.random.default_rng(4)
    blocks = np.repeat(np.arange(9), generator.integers(1, 5, 9))  # unequal block sizes
    values = np.round(generator.lognormal(size=len(blocks)), 1) + 0.1  # ties
    found = bootstrap(block({"a": Samples(values, blocks)}), p, draws=50)

    def quantile(sample: np.ndarray) -> float:
        return float(np.median(sample) if p == 0.5 else np.sort(sample)[int(np.ceil(p * len(sample))) - 1])

    assert found.points[0] == pytest.approx(quantile(values))
    for left in range(9):
        assert found.left_out[0, left] == pytest.approx(quantile(values[blocks != left]))
    from tierwise._seeds import stream

    drawn = stream(0, "bootstrap").integers(0, 9, (50, 9))
    for row in range(50):
        sample = np.concatenate([values[blocks == one] for one in drawn[row]])
        assert found.draws[0, row] == pytest.approx(quantile(sample))


def test_intervals_cover_the_truth_also_with_blocks_in_common() -> None:
    generator = np.random.default_rng(11)
    truth, hits, paired, unpaired, trials = np.exp(0.1), 0, 0.0, 0.0, 400
    for trial in range(trials):
        input_effect = generator.lognormal(0, 0.5, 80)
        first = input_effect * generator.lognormal(0.1, 0.1, 80)
        second = input_effect * generator.lognormal(0, 0.1, 80)
        interval = bootstrap(two(first, second), draws=499, seed=trial).ratio("a", "b")
        hits += interval.holds(truth)
        paired += interval.high - interval.low
        shuffled = bootstrap(two(first, generator.permutation(second)), draws=499, seed=trial).ratio("a", "b")
        unpaired += shuffled.high - shuffled.low
    assert 0.92 <= hits / trials <= 0.98
    assert paired < 0.8 * unpaired  # what blocking is for


def test_blocks_and_not_requests_are_resampled() -> None:
    # Ten blocks of forty alike: an interval that took requests as independent would be far too narrow.
    generator = np.random.default_rng(2)
    hits = [0, 0]
    for trial in range(200):
        level = generator.lognormal(0, 0.5, 15)
        values = np.repeat(level, 20) * generator.lognormal(0, 0.01, 300)
        for kind, ids in enumerate([np.repeat(np.arange(15), 20), np.arange(300)]):
            interval = bootstrap(block({"a": Samples(values, ids)}), draws=299, seed=trial).quantile("a")
            hits[kind] += interval.holds(1.0)
    assert hits[0] / 200 > 0.88
    assert hits[1] / 200 < 0.5


def test_strategies_with_gaps_keep_what_they_have() -> None:
    ids = np.arange(40)
    values = np.linspace(1, 2, 40)
    found = bootstrap(block({"a": Samples(values, ids), "b": Samples(values[:30], ids[:30])}), draws=200)
    assert found.points == pytest.approx([np.median(values), np.median(values[:30])])
    assert np.isfinite(found.draws).all()


def test_constant_latencies_have_an_interval_without_width() -> None:
    found = bootstrap(two(np.full(10, 2.0), np.full(10, 4.0)), draws=99).ratio("a", "b")
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(InputError, match="two blocks"):
        bootstrap(block({"a": Samples(np.array([1.0]), np.array([0]))}))
    with pytest.raises(InputError, match="positive"):
        Samples(np.array([1.0, -1.0]), np.array([0, 1]))
    with pytest.raises(InputError, match="one block for each"):
        Samples(np.array([1.0]), np.array([0, 1]))


def test_five_thousand_blocks_of_twenty_strategies_take_seconds() -> None:
    generator = np.random.default_rng(0)
    ids = np.arange(5000)
    many = block({f"s{i}": Samples(generator.lognormal(size=5000), ids) for i in range(2)})
    found = bootstrap(many, draws=499)
    assert found.blocks == 5000
    assert found.ratio("s0", "s1").holds(1.0)
