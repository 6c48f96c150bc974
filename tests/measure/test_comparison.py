"""Rank tests against values published in textbooks and those of SciPy and scikit-posthocs."""

import numpy as np
import pytest
import scipy.stats

from tierwise._errors import InputError
from tierwise.measure import Samples, block, friedman, holm, kruskal_conover, wilcoxon_p

# Conover, Practical Nonparametric Statistics, 3rd ed., p. 372, example 1: four grasses, ranked by twelve homeowners.
GRASSES = np.array(
    [
        [4, 3, 2, 1], [4, 2, 3, 1], [3, 1.5, 1.5, 4], [3, 1, 2, 4], [4, 2, 1, 3], [2, 2, 2, 4],
        [1, 3, 2, 4], [2, 4, 1, 3], [3.5, 1, 2, 3.5], [4, 1, 3, 2], [4, 2, 3, 1], [3.5, 1, 2, 3.5],
    ]
)  # fmt: skip


def blocked(table: np.ndarray) -> object:
    ids = np.arange(len(table))
    return block(
        {f"s{i}": Samples(column[~np.isnan(column)], ids[~np.isnan(column)]) for i, column in enumerate(table.T)}
    )


def matrix(test: object, k: int) -> np.ndarray:
    out = np.ones((k, k))
    for pair in test.pairs:
        i, j = int(pair.first[1:]), int(pair.second[1:])
        out[i, j] = out[j, i] = pair.p
    return out


def test_friedman_gives_the_textbook_value_with_ties() -> None:
    test = friedman(blocked(GRASSES))
    assert test.statistic == pytest.approx(8.0973, abs=5e-5)  # as printed
    assert test.p == pytest.approx(scipy.stats.friedmanchisquare(*GRASSES.T).pvalue, rel=1e-12)
    assert np.multiply(test.mean_ranks, 12) == pytest.approx([38, 23.5, 24.5, 34])
    assert (test.blocks, test.dropped) == (12, 0)


def test_conover_after_friedman_agrees_with_the_textbook() -> None:
    # There: two grasses differ at 5 % where their rank sums differ by more than 11.49 (t of 33 degrees of freedom).
    test = friedman(blocked(GRASSES))
    sums = np.multiply(test.mean_ranks, 12)
    raw = np.array([pair.p for pair in test.pairs])
    far = np.array([abs(sums[int(p.first[1:])] - sums[int(p.second[1:])]) > 11.49 for p in test.pairs])
    assert far.sum() == 2
    assert set(np.argsort(raw)[:2]) == set(np.flatnonzero(far))


@pytest.mark.parametrize("decimals", [12, 1])  # 1: many ties
def test_conover_friedman_agrees_with_scikit_posthocs(decimals: int) -> None:
    posthocs = pytest.importorskip("scikit_posthocs")
    generator = np.random.default_rng(3)
    table = np.round(generator.lognormal(size=(30, 5)) + np.arange(5) * 0.3, decimals) + 0.1
    expected = posthocs.posthoc_conover_friedman(table, p_adjust="holm").to_numpy()
    np.testing.assert_allclose(matrix(friedman(blocked(table)), 5), expected, rtol=1e-9)


def test_incomplete_blocks_are_dropped_and_counted() -> None:
    generator = np.random.default_rng(1)
    table = generator.lognormal(size=(20, 3))
    holed = table.copy()
    holed[[2, 5, 11], [0, 1, 2]] = np.nan
    test = friedman(blocked(holed))
    whole = friedman(blocked(np.delete(table, [2, 5, 11], axis=0)))
    assert (test.blocks, test.dropped) == (17, 3)
    assert test.statistic == pytest.approx(whole.statistic)
    assert test.pairs == whole.pairs


def test_blocks_of_unequal_size_count_as_their_medians() -> None:
    latency = {"a": [1.0, 1.2, 9.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0]}
    blocks = {"a": [0, 0, 0, 1, 2], "b": [0, 1, 2]}
    table = block({k: Samples(np.array(latency[k]), np.array(blocks[k])) for k in latency}).medians()
    np.testing.assert_array_equal(table, [[1.2, 2.0], [2.0, 3.0], [3.0, 4.0]])


def test_all_tied_and_without_exception_are_answers_too() -> None:
    same = friedman(blocked(np.ones((5, 3))))
    assert (same.statistic, same.p) == (0.0, 1.0)
    assert all(pair.p == 1 for pair in same.pairs)
    strict = friedman(blocked(np.tile([1.0, 2.0, 3.0], (6, 1))))
    assert strict.statistic == pytest.approx(12.0)  # n (k - 1): the largest there is
    assert all(pair.p == 0 for pair in strict.pairs)


def test_friedman_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="1 strategies"):
        friedman(blocked(np.ones((5, 1))))
    holed = np.array([[1.0, np.nan], [np.nan, 2.0], [1.0, 2.0]])
    with pytest.raises(InputError, match="1 complete of 3 blocks"):
        friedman(blocked(holed))


# Hollander and Wolfe 1973, p. 116: mucociliary efficiency; the example of R's kruskal.test: H = 0.77143, p = 0.68.
MUCUS = {"s0": [2.9, 3.0, 2.5, 2.6, 3.2], "s1": [3.8, 2.7, 4.0, 2.4], "s2": [2.8, 3.4, 3.7, 2.2, 2.0]}


def test_kruskal_gives_the_value_of_r_on_groups_of_unequal_size() -> None:
    test = kruskal_conover({k: np.array(v) for k, v in MUCUS.items()})
    assert test.statistic == pytest.approx(0.7714, abs=5e-5)
    assert test.p == pytest.approx(0.68, abs=5e-3)
    assert "without adjustment" in test.label


@pytest.mark.parametrize("decimals", [9, 1])
def test_conover_agrees_with_scikit_posthocs_unequal_and_tied(decimals: int) -> None:
    posthocs = pytest.importorskip("scikit_posthocs")
    generator = np.random.default_rng(5)
    groups = [np.round(generator.normal(3 + i / 4, 1, n), decimals) for i, n in enumerate([12, 30, 7, 21])]
    test = kruskal_conover({f"s{i}": g for i, g in enumerate(groups)})
    reference = scipy.stats.kruskal(*groups)
    assert (test.statistic, test.p) == (pytest.approx(reference.statistic), pytest.approx(reference.pvalue))
    np.testing.assert_allclose(matrix(test, 4), posthocs.posthoc_conover(groups).to_numpy(), rtol=1e-8)


def test_wilcoxon_gives_the_value_of_r() -> None:
    # Hollander and Wolfe 1973, p. 29: depression scores; R's wilcox.test, paired: V = 40, two-sided p = 0.03906.
    x = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    y = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert wilcoxon_p(x, y) == pytest.approx(0.0390625)
    assert wilcoxon_p(x, x) == 1.0
    with pytest.raises(InputError, match="pairs"):
        wilcoxon_p(x, y[:3])


def test_holm_gives_the_values_of_r() -> None:
    # p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.05, 0.02, 0.04])), [0.09, 0.05, 0.09, 0.08, 0.09])
