"""A clock that jumps instead of waiting."""

from __future__ import annotations

import threading
from typing import final

__all__ = ["FakeClock"]


@final
class FakeClock:
    """A `tierwise._clock.Clock` on which nothing takes time but sleeping, and sleeping takes no time.

    With one thread a sleep jumps at once. With several, a sleeper jumps when the others have been quiet for a moment
    and nobody sleeps until an earlier time, so that sleeps of different threads end in the right order.

    Args:
        threads: Whether more than one thread uses the clock.
        quiet_s: How long (really) the others must have been quiet.

    Example:
        >>> clock = FakeClock()
        >>> clock.sleep(3600)
        >>> clock.now_ns() / 1e9
        3600.0
    """

    def __init__(self, *, threads: bool = False, quiet_s: float = 0.002) -> None:
        self._now_ns = 0
        self._quiet_s = quiet_s if threads else 0.0
        self._changed = threading.Condition()
        self._calls = 0
        self._deadlines: list[int] = []

    def now_ns(self) -> int:
        """See `tierwise._clock.Clock.now_ns`."""
        with self._changed:
            self._calls += 1
            return self._now_ns

    def sleep(self, seconds: float) -> None:
        """See `tierwise._clock.Clock.sleep`."""
        if seconds <= 0:
            return
        with self._changed:
            deadline = self._now_ns + round(1e9 * seconds)
            self._deadlines.append(deadline)
            self._calls += 1
            while self._now_ns < deadline:
                seen = self._calls
                if self._quiet_s:
                    self._changed.wait(self._quiet_s)
                if self._calls == seen and deadline == min(self._deadlines) and self._now_ns < deadline:
                    self._now_ns = deadline
                    self._calls += 1
                    self._changed.notify_all()
            self._deadlines.remove(deadline)
