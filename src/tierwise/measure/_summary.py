"""Percentiles with intervals that assume no distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError

__all__ = ["MIN_P99_SAMPLES", "Estimate", "Summary", "quantile", "summarise"]

MIN_P99_SAMPLES = 459
"""Below this a p99 is not reported: only from n = 459 on does 0.99^n < 0.01 hold, that is, only then has the largest
sample a chance of 99 % to lie above the true p99. (Early stopping in MLPerf Inference follows the same bound.)"""

_MLPERF_P90_SAMPLES = 24_576
_CONFIDENCE = 0.95


@final
class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A percentile and its 95 % interval.

    Attributes:
        value_s: The order statistic of rank ceil(p n).
        low_s: Lower end of the interval; None where there are too few samples for one.
        high_s: Upper end; likewise.
    """

    value_s: float
    low_s: float | None
    high_s: float | None


@final
class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of one cell.

    The intervals take requests as independent of each other. Requests inside one process restart are not quite; compare
    the restarts' medians before leaning on a narrow interval.

    Attributes:
        n: Number of samples.
        mean_s: Arithmetic mean.
        min_s: Smallest.
        max_s: Largest.
        p50: Median.
        p90: 90th percentile.
        p99: 99th percentile; None from fewer than `MIN_P99_SAMPLES` samples.
    """

    n: int
    mean_s: float
    min_s: float
    max_s: float
    p50: Estimate
    p90: Estimate
    p99: Estimate | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about these percentiles."""
        said = []
        if self.p99 is None:
            said.append(f"no p99: {self.n} samples, {MIN_P99_SAMPLES} are needed")
        if self.n < _MLPERF_P90_SAMPLES:
            said.append(
                f"{self.n} samples; for a p90 to half a percentile MLPerf Inference asks for {_MLPERF_P90_SAMPLES:,}"
            )
        return tuple(said)


def summarise(latencies_s: Sequence[float] | npt.NDArray[np.float64]) -> Summary:
    """Summary of latencies in any order.

    Args:
        latencies_s: Seconds, [n] with n >= 1.

    Raises:
        InputError: No sample, or one that is not a finite number.
    """
    ordered = np.sort(np.asarray(latencies_s, dtype=np.float64))
    if ordered.ndim != 1 or ordered.size == 0 or not np.isfinite(ordered).all():
        raise InputError("a summary needs one finite latency at least", got=f"an array of shape {ordered.shape}")
    return Summary(
        n=int(ordered.size),
        mean_s=float(ordered.mean()),
        min_s=float(ordered[0]),
        max_s=float(ordered[-1]),
        p50=quantile(ordered, 0.50),
        p90=quantile(ordered, 0.90),
        p99=quantile(ordered, 0.99) if ordered.size >= MIN_P99_SAMPLES else None,
    )


def quantile(ordered: npt.NDArray[np.float64], p: float) -> Estimate:
    """The ``p`` quantile of sorted samples with its distribution-free interval.

    With n samples the number below the true quantile is binomial(n, p); the interval runs from the order statistic
    with rank l to the one with rank u, the narrowest ranks that leave at most 2.5 % on either side (David and Nagaraja,
    Order Statistics, section 7.1).

    Args:
        ordered: Ascending, [n] with n >= 1.
        p: In (0, 1).
    """
    n = len(ordered)
    below = np.cumsum(_binomial(n, p))  # below[k] = P(at most k samples lie below the quantile)
    tail = (1 - _CONFIDENCE) / 2
    low = int(np.searchsorted(below, tail, side="right"))  # ranks l with P(fewer than l below) <= tail: 1..low
    # The smallest rank u with P(u or more below) = 1 - below[u - 1] <= tail.
    high = int(np.searchsorted(below, 1 - tail - 1e-15)) + 1
    return Estimate(
        value_s=float(ordered[math.ceil(p * n - 1e-9) - 1]),
        low_s=float(ordered[low - 1]) if low >= 1 else None,
        high_s=float(ordered[high - 1]) if high <= n else None,
    )


def _binomial(n: int, p: float) -> npt.NDArray[np.float64]:
    """Probabilities of 0..n successes, from logarithms so that no n overflows."""
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    k = np.arange(n + 1)
    choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    chance: npt.NDArray[np.float64] = np.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))
    return chance
