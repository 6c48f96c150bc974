"""How large a difference is, whether it matters, and accuracy compared on the same items."""

from __future__ import annotations

import math
from typing import Literal, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.measure._bootstrap import DRAWS, Interval, bca
from tierwise.measure._distributions import chi_square_sf, fair_coin_p

__all__ = [
    "Band",
    "Delta",
    "McNemar",
    "Verdict",
    "accuracy_difference",
    "cliffs_delta",
    "compare_ratio",
    "f1_difference",
    "mcnemar",
    "newcombe",
]

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Band = Literal["negligible", "small", "medium", "large"]
Verdict = Literal["faster", "slower", "equivalent", "undecided"]

_BANDS: tuple[tuple[float, Band], ...] = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))
_FEW = 25  # discordant items up to which McNemar's test is exact


@final
class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """Cliff's delta: P(first > second) - P(first < second), in [-1, 1]; negative where the first is smaller.

    Attributes:
        value: Delta.
        band: ``negligible`` below 0.147, ``small`` below 0.33, ``medium`` below 0.474, else ``large`` (of its size).
    """

    value: float
    band: Band


def cliffs_delta(first: Floats, second: Floats) -> Delta:
    """Cliff's delta of two samples, from the Mann-Whitney U (2U / mn - 1; ties count half).

    Bands after Romano et al. 2006, Appropriate statistics for ordinal level data.

    Raises:
        InputError: An empty sample.
    """
    m, n = len(first), len(second)
    if min(m, n) == 0:
        raise InputError("an effect size needs two samples that are not empty", got=f"{m} and {n} values")
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, side="left").sum()
    not_above = np.searchsorted(ordered, first, side="right").sum()
    value = float((int(below) + int(not_above)) / (m * n) - 1)
    return Delta(value=value, band=next((band for end, band in _BANDS if abs(value) < end), "large"))


def compare_ratio(ratio: Interval, margin_frac: float = 0.05) -> Verdict:
    """What an interval of a ratio of latencies allows to claim.

    ``equivalent`` is a claim (all of the interval lies inside [1 / (1 + margin), 1 + margin]) and comes first: a
    difference that is certain but smaller than the margin does not matter. From a 95 % interval it is wrong at most one
    time in forty on either side (two one-sided tests would make do with 90 %). ``undecided`` is no claim.

    Args:
        ratio: Of the first's latency to the second's.
        margin_frac: Largest relative difference that does not matter.

    Raises:
        InputError: A margin that is not positive.
    """
    if not margin_frac > 0:
        raise InputError("an equivalence margin must be positive", got=margin_frac)
    if ratio.within(1 / (1 + margin_frac), 1 + margin_frac):
        return "equivalent"
    if ratio.high < 1:
        return "faster"
    return "slower" if ratio.low > 1 else "undecided"


@final
class McNemar(msgspec.Struct, frozen=True, kw_only=True):
    """McNemar's test of two classifiers on the same items.

    Attributes:
        only_first: Items that only the first got right.
        only_second: Items that only the second got right.
        items: All items.
        p: Two-sided.
        exact: Whether p is the binomial one (up to 25 discordant items) or chi-square with continuity correction.
    """

    only_first: int
    only_second: int
    items: int
    p: float
    exact: bool


def mcnemar(first: Booleans, second: Booleans) -> McNemar:
    """McNemar's test.

    Args:
        first: Whether the first was right, [n].
        second: Whether the second was, on the same items.

    Raises:
        InputError: Not the same number of items, or none.
    """
    _same_items(first, second)
    one, other = int((first & ~second).sum()), int((~first & second).sum())
    exact = one + other <= _FEW
    # The correction takes away what there is, and no more: equal counts speak for no difference at all.
    apart = max(abs(one - other) - 1, 0)
    p = fair_coin_p(one, one + other) if exact else chi_square_sf(apart**2 / (one + other), 1)
    return McNemar(only_first=one, only_second=other, items=len(first), p=p, exact=exact)


def accuracy_difference(
    first: Booleans, second: Booleans, *, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Accuracy of the first less that of the second on the same items: paired BCa bootstrap over items.

    Raises:
        InputError: Not the same number of items, or none.
    """
    _same_items(first, second)
    difference = first.astype(np.float64) - second.astype(np.float64)
    n, point = len(difference), float(difference.mean())
    # The mean of n drawn items depends on how many +1, 0 and -1 were drawn alone.
    shares = [float((difference == sign).mean()) for sign in (1, 0, -1)]
    drawn = stream(seed, "accuracy").multinomial(n, shares, draws)
    left_out = (difference.sum() - difference) / max(n - 1, 1)
    return bca(point, (drawn[:, 0] - drawn[:, 2]) / n, left_out, confidence)


def f1_difference(
    first: Booleans,
    second: Booleans,
    positive: Booleans,
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """F1 of the first less that of the second on the same items: paired BCa bootstrap over items.

    Args:
        first: Whether the first took an item for positive, [n].
        second: Whether the second did.
        positive: Whether it is.
        confidence: In (0, 1).
        draws: Number of replicates.
        seed: Root of the draws.

    Raises:
        InputError: Not the same number of items, or none.
    """
    _same_items(first, second)
    _same_items(first, positive)
    # Both F1 depend on how many items of each of these eight kinds were drawn alone.
    kinds = 4 * first.astype(np.int64) + 2 * second.astype(np.int64) + positive.astype(np.int64)
    n, counts = len(kinds), np.bincount(kinds, minlength=8)
    drawn = stream(seed, "f1").multinomial(n, counts / n, draws)
    left_out = _f1_gap(counts - np.eye(8, dtype=np.int64))[kinds]
    return bca(float(_f1_gap(counts)), _f1_gap(drawn), left_out, confidence)


def _f1_gap(counts: npt.NDArray[np.int64]) -> Floats:
    """F1 of the first less the second's from [..., 8] counts, as numbered in `f1_difference`; 0 without a hit."""
    positive = counts[..., 1::2].sum(axis=-1)
    ones, others = counts[..., 4:].sum(axis=-1), counts[..., [2, 3, 6, 7]].sum(axis=-1)
    hits, other_hits = counts[..., [5, 7]].sum(axis=-1), counts[..., [3, 7]].sum(axis=-1)
    gap: Floats = 2 * hits / np.maximum(ones + positive, 1) - 2 * other_hits / np.maximum(others + positive, 1)
    return gap


def newcombe(first: float, first_items: int, second: float, second_items: int) -> Interval:
    """95 % interval of the difference of two independent shares (Newcombe 1998, method 10, from Wilson's scores).

    Wider than a paired interval would be where both were taken on the same items; for when only shares are known.

    Raises:
        InputError: No items or a share out of [0, 1].
    """
    if min(first_items, second_items) < 1 or not (0 <= first <= 1 and 0 <= second <= 1):
        raise InputError("shares must lie in [0, 1] and come from one item at least", got=f"{first} and {second}")
    (l1, u1), (l2, u2) = _wilson(first, first_items), _wilson(second, second_items)
    difference = first - second
    return Interval(
        value=difference,
        low=difference - math.hypot(first - l1, u2 - second),
        high=difference + math.hypot(u1 - first, second - l2),
    )


def _wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    centre, root = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - root) / (1 + z * z / n), (centre + root) / (1 + z * z / n)


def _same_items(first: Booleans, second: Booleans) -> None:
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError("both must be judged on the same items", got=f"shapes {first.shape} and {second.shape}")
