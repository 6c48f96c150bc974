"""A mean that forgets: what a thing usually takes, and how far single times are from that."""

from __future__ import annotations

import math
from typing import final

__all__ = ["Ewma"]


@final
class Ewma:
    """An exponentially weighted mean and mean deviation (as RFC 6298 keeps them for round trips).

    A sample weighs ``weight``, and more where the one before it is old: after ``stale_s`` the past counts for 37 %.

    Args:
        weight: Share of a sample that follows at once.
        stale_s: Time constant of forgetting; seconds.
    """

    __slots__ = ("_at_ns", "_mean", "_stale_s", "_weight", "deviation")

    def __init__(self, weight: float = 0.25, stale_s: float = 10.0) -> None:
        self._weight, self._stale_s = weight, stale_s
        self._mean: float | None = None
        self.deviation = 0.0
        self._at_ns = 0

    @property
    def mean(self) -> float | None:
        """The mean; None before the first sample."""
        return self._mean

    def observe(self, value: float, now_ns: int) -> None:
        """Take a sample."""
        if self._mean is None:
            self._mean, self.deviation = value, value / 2
        else:
            age_s = max(0.0, (now_ns - self._at_ns) / 1e9)
            weight = max(self._weight, 1.0 - math.exp(-age_s / self._stale_s))
            self.deviation += weight * (abs(value - self._mean) - self.deviation)
            self._mean += weight * (value - self._mean)
        self._at_ns = now_ns
