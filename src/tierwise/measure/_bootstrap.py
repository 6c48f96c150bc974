"""Bootstrap intervals that resample whole blocks, bias-corrected and accelerated.

BCa: Efron and Tibshirani, An Introduction to the Bootstrap, section 14.3, equations 14.9, 14.10, 14.14 and 14.15.
Blocks are drawn with replacement and every strategy keeps the measurements of the drawn blocks, so that what varies
from block to block (the input, the state of the machine) is common to all strategies of a replicate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.measure._blocked import Blocked

__all__ = ["DRAWS", "Bootstrap", "Interval", "bca", "bootstrap"]

DRAWS = 1999
"""Replicates of a bootstrap, of which a 95 % interval uses the 50th from either end."""

_CELLS = 4_000_000  # counts held at once: 16 MB
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]


@final
class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and where it may lie.

    Attributes:
        value: The figure.
        low: Lower end.
        high: Upper end.
        confidence: Share of such intervals that hold the truth, nominally.
    """

    value: float
    low: float
    high: float
    confidence: float = 0.95

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in it."""
        return self.low <= value <= self.high

    def within(self, low: float, high: float) -> bool:
        """Whether all of it lies between ``low`` and ``high``."""
        return low <= self.low and self.high <= high


@final
@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A quantile of every strategy: as measured, in each replicate, and with each block left out.

    Attributes:
        names: Strategies.
        p: The quantile; 0.5 is the median (the mean of the middle two for an even count).
        points: Seconds, [k].
        draws: Replicates, [k, draws]; NaN where no block of a strategy was drawn.
        left_out: One block left out, [k, b].
        blocks: Number of blocks.
    """

    names: tuple[str, ...]
    p: float
    points: Floats
    draws: Floats
    left_out: Floats
    blocks: int

    def quantile(self, name: str, confidence: float = 0.95) -> Interval:
        """The quantile of one strategy, in seconds."""
        i = self.names.index(name)
        return bca(float(self.points[i]), self.draws[i], self.left_out[i], confidence)

    def ratio(self, name: str, to: str, confidence: float = 0.95) -> Interval:
        """Quantile of ``name`` over that of ``to``; below 1 ``name`` is the faster one."""
        i, j = self.names.index(name), self.names.index(to)
        return bca(
            float(self.points[i] / self.points[j]),
            self.draws[i] / self.draws[j],
            self.left_out[i] / self.left_out[j],
            confidence,
        )


def bootstrap(blocked: Blocked, p: float = 0.5, *, draws: int = DRAWS, seed: int = 0) -> Bootstrap:
    """Resample blocks.

    Args:
        blocked: Strategies over common blocks.
        p: The quantile, in (0, 1): the order statistic of rank ceil(p n), or for 0.5 the usual median.
        draws: Number of replicates.
        seed: Root of the draws.

    Raises:
        InputError: ``p`` out of bounds, or fewer than two blocks.
    """
    b = len(blocked.blocks)
    if not 0 < p < 1 or b < 2:
        raise InputError("a bootstrap needs a quantile in (0, 1) and two blocks at least", got=f"{p} and {b} blocks")
    generator = stream(seed, "bootstrap")
    replicates = np.empty((len(blocked.names), draws))
    widest = max(b, *(len(values) for values in blocked.values))
    step = max(1, _CELLS // widest)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = generator.integers(0, b, (rows, b)) + np.arange(rows)[:, None] * b
        counts = np.bincount(drawn.ravel(), minlength=rows * b).reshape(rows, b).astype(np.int32)
        for k, (values, positions) in enumerate(zip(blocked.values, blocked.positions, strict=True)):
            replicates[k, start : start + rows] = _weighted(values, counts[:, positions], p)
    ones = [np.ones((1, len(values)), dtype=np.int32) for values in blocked.values]
    return Bootstrap(
        names=blocked.names,
        p=p,
        points=np.array([_weighted(values, one, p)[0] for values, one in zip(blocked.values, ones, strict=True)]),
        draws=replicates,
        left_out=np.array(
            [_left_out(values, at, b, p) for values, at in zip(blocked.values, blocked.positions, strict=True)]
        ),
        blocks=b,
    )


def bca(point: float, draws: Floats, left_out: Floats, confidence: float = 0.95) -> Interval:
    """The BCa interval of a figure from its replicates and its values with one block left out.

    Args:
        point: The figure as measured.
        draws: Replicates; NaN ones (nothing was drawn) do not count.
        left_out: One value per block.
        confidence: In (0, 1).
    """
    sound = np.sort(draws[np.isfinite(draws)])
    if sound.size == 0 or sound[0] == sound[-1]:
        return Interval(value=point, low=point, high=point, confidence=confidence)
    normal = NormalDist()
    # Replicates equal to the figure count half: medians of coarse clocks are tied often. Never quite 0 or 1.
    below = (np.count_nonzero(sound < point) + np.count_nonzero(sound <= point)) / (2 * sound.size)
    bias = normal.inv_cdf(min(max(below, 0.5 / sound.size), 1 - 0.5 / sound.size))
    deviation = left_out[np.isfinite(left_out)]
    deviation = deviation.mean() - deviation
    spread = float((deviation**2).sum())
    acceleration = float((deviation**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    tail = (1 - confidence) / 2
    ends = []
    for z in (normal.inv_cdf(tail), normal.inv_cdf(1 - tail)):
        shifted = bias + z
        ends.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(sound, ends)
    return Interval(value=point, low=float(low), high=float(high), confidence=confidence)


def _targets(total: npt.NDArray[np.int64], p: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ranks (from 1) whose mean is the quantile of ``total`` values."""
    if p == 0.5:
        return (total + 1) // 2, total // 2 + 1
    rank = np.maximum(1, np.ceil(p * total - 1e-9).astype(np.int64))
    return rank, rank


def _weighted(values: Floats, counts: Counts, p: float) -> Floats:
    """The quantile of ascending values, each as often as ``counts`` [rows, n] says; NaN where a row counts none."""
    reached = np.cumsum(counts, axis=1, dtype=np.int32)
    total = reached[:, -1].astype(np.int64)
    low, high = _targets(total, p)
    last = len(values) - 1
    first = np.minimum((reached < low[:, None]).sum(axis=1), last)
    second = first if low is high else np.minimum((reached < high[:, None]).sum(axis=1), last)
    return np.where(total > 0, (values[first] + values[second]) / 2, math.nan)


def _left_out(values: Floats, positions: npt.NDArray[np.int64], blocks: int, p: float) -> Floats:
    """The quantile without each block in turn, [blocks]."""
    sizes = np.bincount(positions, minlength=blocks)
    order = np.argsort(positions, kind="stable")  # ranks by block, ascending inside each
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    total = len(values) - sizes
    ends = []
    for target in _targets(total, p):
        at = target - 1
        # A removed value at or before the wanted place moves it one further; taken in ascending order this is exact.
        for turn in range(int(sizes.max())):
            has = sizes > turn
            removed = order[np.where(has, starts + turn, 0)]
            at = at + (has & (removed <= at))
        ends.append(values[np.minimum(at, len(values) - 1)])
    return np.where(total > 0, (ends[0] + ends[1]) / 2, math.nan)
