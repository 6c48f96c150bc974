"""A circuit breaker: a path that fails is left alone for a while, then tried once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, final

import msgspec

from tierwise._config import Spec

__all__ = ["Breaker", "BreakerSpec", "BreakerState"]

BreakerState = Literal["closed", "open", "half-open"]

Positive = Annotated[float, msgspec.Meta(gt=0)]


class BreakerSpec(Spec, frozen=True, kw_only=True):
    """When a path is left alone, and for how long.

    Attributes:
        failures: Failures in a row that open the breaker.
        first_wait_s: How long it stays open the first time.
        growth: How many times longer after each trial that failed.
        longest_wait_s: The most it grows to.
        jitter_frac: Every wait is drawn from this share below to this share above, so that many clients of one node do
            not come back at the same instant.
    """

    failures: Annotated[int, msgspec.Meta(ge=1)] = 3
    first_wait_s: Positive = 0.25
    growth: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    longest_wait_s: Positive = 5.0
    jitter_frac: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2


@final
class Breaker:
    """Closed (requests pass), open (none do), half-open (one trial is under way). Pure: it is told the time.

    Not safe for threads; its owner guards it.

    Args:
        spec: When and for how long.
        draw: Draws evenly from 0 to 1, for the jitter.
    """

    def __init__(self, spec: BreakerSpec, draw: Callable[[], float]) -> None:
        self._spec, self._draw = spec, draw
        self._state: BreakerState = "closed"
        self._failures = self._successes = self._level = 0
        self._until_ns = 0
        self.opened = 0

    @property
    def state(self) -> BreakerState:
        """The state; opening it again after the wait is `begin_trial`'s matter."""
        return self._state

    def begin_trial(self, now_ns: int) -> bool:
        """Whether the wait is over and the caller shall make the one trial; its outcome must be reported."""
        if self._state != "open" or now_ns < self._until_ns:
            return False
        self._state = "half-open"
        return True

    def succeeded(self, *, trial: bool = False) -> None:
        """A request was answered. While it is not closed only the trial counts: others began before it opened."""
        if self._state == "closed":
            self._failures = 0
            self._successes += 1
            if self._successes >= self._spec.failures:
                self._level = 0  # it holds: the next time begins with the shortest wait again
        elif trial and self._state == "half-open":
            self._state = "closed"
            self._failures = self._successes = 0

    def failed(self, now_ns: int, *, trial: bool = False) -> None:
        """A request failed or was not answered in its time."""
        self._successes = 0
        if self._state == "closed":
            self._failures += 1
            if self._failures >= self._spec.failures:
                self._open(now_ns)
        elif trial and self._state == "half-open":
            self._open(now_ns)

    def _open(self, now_ns: int) -> None:
        spec = self._spec
        wait_s = min(spec.first_wait_s * spec.growth ** min(self._level, 64), spec.longest_wait_s)
        wait_s *= 1.0 + spec.jitter_frac * (2.0 * self._draw() - 1.0)
        self._state, self._until_ns = "open", now_ns + round(1e9 * wait_s)
        self._failures = 0
        self._level += 1
        self.opened += 1
