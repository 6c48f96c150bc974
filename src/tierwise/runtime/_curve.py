"""How long a model computes for 1, 2, 4, ... items at once, and what follows from that for batching."""

from __future__ import annotations

import math
import threading
from typing import Final, final

__all__ = ["Curve"]

# Weight of the newest of the times of one size; the others fade with it.
_WEIGHT: Final = 0.2
# From so many items on, sizes are told apart to one part in this many; below twice that, each is its own. Clients
# choose how many items they send, and must not choose how much is remembered of it.
_FINE: Final = 64


@final
class Curve:
    """The batch curve c(n) of one model: nanoseconds for n items at once. May be used from several threads.

    Times are learned from what was really computed. Between sizes that were seen the curve is a straight line; below
    the smallest and above the largest it is proportional, which promises no gain that nobody has seen. From 128 items
    on sizes are rounded, to 1 part in 64 at most, so that what is remembered has a bound.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._mean_ns: dict[int, float] = {}
        self._least_ns: dict[int, float] = {}
        self._sizes: tuple[int, ...] = ()

    def learn(self, size: int, ns: int) -> None:
        """``size`` items took ``ns``; a request of no items says nothing about any other."""
        if size < 1:
            return
        rounded = _rounded(size)
        size, ns = rounded, ns * rounded // size
        with self._mutex:
            before = self._mean_ns.get(size)
            self._mean_ns[size] = ns if before is None else before + _WEIGHT * (ns - before)
            self._least_ns[size] = min(ns, self._least_ns.get(size, ns))
            if before is None:
                self._sizes = tuple(sorted(self._mean_ns))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes that were seen, smallest first."""
        return self._sizes

    def ns(self, size: int) -> float:
        """Expected time for ``size`` items; 0 where nothing is known."""
        return _at(self._sizes, self._mean_ns, size)

    def least_ns(self, size: int) -> float:
        """The shortest time that was ever seen for ``size`` items; 0 where nothing is known."""
        return _at(self._sizes, self._least_ns, size)

    def choose(self, waiting: int, most: int, budget_ns: float) -> int:
        """How many of the ``waiting`` items to compute at once.

        With batches of b, n waiting items are done after c(b), 2 c(b), ..., ceil(n/b) c(b); their mean latency is
        c(b) (ceil(n/b) + 1) / 2. The b with the least of it is taken (the smaller of equals), among 1, 2, 4, ... and
        n, up to ``most`` and to what computes within ``budget_ns``. Where c is proportional to b, batching helps
        nobody and b is 1; where c hardly grows, b is n; a long queue, which is worth any gain in throughput, asks for
        larger batches than a short one.

        Where a whole batch of ``most`` waits already, the line is a backlog, and what empties it fastest serves
        everybody: the largest b within the budget whose time for an item is at most a tenth above the least. The
        largest, because every turn also costs what the curve does not hold: handing it over, and caches gone cold. A
        tenth, because the answers of one batch are sent while the next computes, which the curve takes for its time.
        """
        best, least, one_ns = 1, math.inf, 0.0
        if not self._sizes or waiting < 2:
            return 1
        if waiting >= most and len(self._sizes) > 1:
            return self._fastest(most, budget_ns)
        limit = min(waiting, most)
        for size in (*(1 << power for power in range(limit.bit_length())), limit):
            one_ns = max(one_ns, self.ns(size))  # more items are never less work
            mean_ns = one_ns * (math.ceil(waiting / size) + 1) / 2
            if mean_ns < 0.99 * least and (size == 1 or one_ns <= budget_ns):
                best, least = size, mean_ns
        return best

    def _fastest(self, most: int, budget_ns: float) -> int:
        times_ns = {size: self.ns(size) for size in (*(1 << power for power in range(most.bit_length())), most)}
        fitting = {size: ns / size for size, ns in times_ns.items() if size == 1 or ns <= budget_ns}
        least_ns = min(fitting.values())
        return max(size for size, item_ns in fitting.items() if item_ns <= 1.1 * least_ns)

    def queue_ns(self, waiting: int, most: int, budget_ns: float) -> float:
        """Expected time until all of ``waiting`` items are computed, in batches as `choose` has them."""
        if waiting <= 0 or not self._sizes:
            return 0.0
        size = self.choose(waiting, most, budget_ns)
        return math.ceil(waiting / size) * self.ns(size)

    def patience_ns(self, together: int) -> float:
        """The longest that waiting for one more item can be worth, with ``together`` items at hand.

        Run now, k items have the latency c(k), and one that comes after d waits for them: c(k) - d + c(1). Waited for
        it, k items have d + c(k+1) and it has c(k+1). Over all k + 1 items waiting is the better choice where

            (k+1) c(k+1) + k d  <  (k+1) c(k) + c(1) - d,   that is   d < c(1) / (k+1) - (c(k+1) - c(k)).

        For a curve without gain the right side is negative: nobody waits. One item more never counts as less work,
        whatever was measured; so nobody waits longer than c(1) / 2, and who asks one request after the other, at gaps
        of c(1) or more, is never delayed.
        """
        if len(self._sizes) < 2:
            return 0.0
        return self.ns(1) / (together + 1) - max(0.0, self.ns(together + 1) - self.ns(together))


def _rounded(size: int) -> int:
    """Its first bits, as many as tell ``_FINE`` sizes of an octave apart."""
    dropped = max(0, size.bit_length() - _FINE.bit_length())
    return size >> dropped << dropped


def _at(sizes: tuple[int, ...], known: dict[int, float], size: int) -> float:
    if not sizes:
        return 0.0
    if size in known:
        return known[size]
    if size < sizes[0] or size > sizes[-1]:
        nearest = sizes[0] if size < sizes[0] else sizes[-1]
        return known[nearest] * size / nearest
    above = next(i for i, seen in enumerate(sizes) if seen > size)
    low, high = sizes[above - 1], sizes[above]
    return known[low] + (known[high] - known[low]) * (size - low) / (high - low)
