"""Which strategies differ: rank tests on blocks, and the tests of the published study as they were.

Friedman 1937 with the correction for ties (Conover, Practical Nonparametric Statistics, 3rd ed., section 5.8, eq. 5),
Conover's comparisons of pairs after it (ibid., eq. 8) and after Kruskal-Wallis (section 5.2, eq. 6), Holm 1979.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.measure._blocked import Blocked
from tierwise.measure._distributions import chi_square_sf, ranks, scipy_stats, student_t_two_sided

__all__ = ["Friedman", "Pair", "RankTest", "friedman", "holm", "kruskal_conover", "wilcoxon_p"]

_PUBLISHED = "as published: Kruskal-Wallis, pairs by Conover without adjustment; requests taken as independent"
Floats = npt.NDArray[np.float64]


@final
class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two strategies compared.

    Attributes:
        first: One.
        second: The other.
        p: p-value, adjusted as its test says.
    """

    first: str
    second: str
    p: float


@final
class Friedman(msgspec.Struct, frozen=True, kw_only=True):
    """Friedman's test over complete blocks and all pairs after it.

    Attributes:
        names: Strategies.
        statistic: Chi-square, corrected for ties.
        p: Of the hypothesis that no strategy differs from another.
        mean_ranks: Per strategy over blocks; 1 would be the fastest in every block.
        blocks: Complete blocks used.
        dropped: Blocks left out since a strategy has no answer there.
        pairs: Every pair once, Conover-Friedman, adjusted by Holm.
    """

    names: tuple[str, ...]
    statistic: float
    p: float
    mean_ranks: tuple[float, ...]
    blocks: int
    dropped: int
    pairs: tuple[Pair, ...]

    def pair(self, one: str, other: str) -> Pair:
        """The comparison of two strategies, in either order; KeyError where there is none."""
        return _find(self.pairs, one, other)


@final
class RankTest(msgspec.Struct, frozen=True, kw_only=True):
    """Kruskal-Wallis and Conover's pairs: blocks are ignored.

    Attributes:
        names: Strategies.
        statistic: H, corrected for ties.
        p: Of the hypothesis that no strategy differs from another.
        pairs: Every pair once.
        label: What to write beside every figure of it: which tests, whether adjusted, what is taken for granted.
    """

    names: tuple[str, ...]
    statistic: float
    p: float
    pairs: tuple[Pair, ...]
    label: str

    def pair(self, one: str, other: str) -> Pair:
        """The comparison of two strategies, in either order; KeyError where there is none."""
        return _find(self.pairs, one, other)


def friedman(blocked: Blocked) -> Friedman:
    """Friedman's test and Conover-Friedman with Holm; several measurements in a block count as their median.

    Raises:
        InputError: Fewer than two strategies or two complete blocks.
    """
    table = blocked.complete()
    n, k = len(table), len(blocked.names)
    if k < 2 or n < 2:
        raise InputError(
            "Friedman's test needs two strategies and two blocks that all of them answered",
            got=f"{k} strategies and {n} complete of {len(blocked.blocks)} blocks",
        )
    ranked = ranks(table, axis=1)
    sums = ranked.sum(axis=0)
    squares = float((ranked**2).sum())
    spread = (squares - n * k * (k + 1) ** 2 / 4) / (k - 1)
    between = float(((sums - n * (k + 1) / 2) ** 2).sum())
    # Every block tied throughout: nothing differs.
    statistic = between / spread if spread > 0 else 0.0
    df = (n - 1) * (k - 1)
    i, j = np.triu_indices(k, 1)
    scale = 2 * n * spread * (k - 1) / df * (1 - statistic / (n * (k - 1)))
    p = _t_pairs(np.abs(sums[i] - sums[j]), scale, df)
    return Friedman(
        names=blocked.names,
        statistic=statistic,
        p=chi_square_sf(statistic, k - 1),
        mean_ranks=tuple(float(mean) for mean in sums / n),
        blocks=n,
        dropped=len(blocked.blocks) - n,
        pairs=_pairs(blocked.names, holm(p)),
    )


def kruskal_conover(groups: Mapping[str, Floats], *, adjust: bool = False) -> RankTest:
    """Kruskal-Wallis and Conover: every latency a sample of its own. Without adjustment, as the published study did.

    Args:
        groups: Latencies per strategy, of any lengths.
        adjust: Adjust pairs by Holm.

    Raises:
        InputError: Fewer than two strategies, or an empty one.
    """
    names, parts = tuple(groups), [np.asarray(group, dtype=np.float64) for group in groups.values()]
    if len(parts) < 2 or min(part.size for part in parts) < 1:
        raise InputError("Kruskal-Wallis needs two strategies with one latency each at least", got=len(parts))
    sizes = np.array([part.size for part in parts])
    n, k = int(sizes.sum()), len(parts)
    ranked = ranks(np.concatenate(parts))
    sums = np.array([part.sum() for part in np.split(ranked, np.cumsum(sizes)[:-1])])
    spread = (float((ranked**2).sum()) - n * (n + 1) ** 2 / 4) / (n - 1)
    statistic = (float((sums**2 / sizes).sum()) - n * (n + 1) ** 2 / 4) / spread if spread > 0 else 0.0
    i, j = np.triu_indices(k, 1)
    scale = spread * (1 / sizes[i] + 1 / sizes[j]) * (n - 1 - statistic) / max(n - k, 1)
    p = _t_pairs(np.abs(sums[i] / sizes[i] - sums[j] / sizes[j]), scale, n - k)
    return RankTest(
        names=names,
        statistic=statistic,
        p=chi_square_sf(statistic, k - 1),
        pairs=_pairs(names, holm(p) if adjust else p),
        label="Kruskal-Wallis, pairs by Conover with Holm; requests taken as independent" if adjust else _PUBLISHED,
    )


def wilcoxon_p(first: Floats, second: Floats) -> float:
    """Wilcoxon's signed-rank test of paired figures (two-sided), as the published study ran it on accuracies.

    Raises:
        InputError: Not pairs.
    """
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError("Wilcoxon's test needs pairs", got=f"shapes {first.shape} and {second.shape}")
    if (first == second).all():
        return 1.0
    return float(scipy_stats().wilcoxon(first, second).pvalue)


def holm(p: Floats) -> Floats:
    """p-values adjusted by Holm's step-down method, in the order given.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _t_pairs(difference: Floats, scale: Floats | float, df: float) -> Floats:
    """Two-sided p of ``difference`` with variance ``scale``; where that is 0 (ranks without exception), 0 or 1."""
    variance = np.broadcast_to(np.asarray(scale, dtype=np.float64), difference.shape)
    sure = (variance <= 1e-12) | (df < 1)
    t = difference / np.sqrt(np.where(sure, 1.0, variance))
    p = np.where(difference > 0, 0.0 if df >= 1 else 1.0, 1.0)
    return np.where(sure, p, student_t_two_sided(t, max(df, 1)))


def _pairs(names: tuple[str, ...], p: Floats) -> tuple[Pair, ...]:
    together = zip(itertools.combinations(names, 2), p, strict=True)
    return tuple(Pair(first=one, second=other, p=float(value)) for (one, other), value in together)


def _find(pairs: tuple[Pair, ...], one: str, other: str) -> Pair:
    for pair in pairs:
        if {pair.first, pair.second} == {one, other}:
            return pair
    raise KeyError((one, other))
