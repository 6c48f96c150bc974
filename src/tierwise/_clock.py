"""The injected clock: everything that waits or times takes one, so that tests need not wait."""

from __future__ import annotations

import time
from typing import Protocol, final

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """A monotonic clock of one host."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary point, never going back; comparable between processes of one host."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` (at once when it is not positive)."""
        ...


@final
class SystemClock:
    """``CLOCK_MONOTONIC``, which on Linux is one clock for all processes and namespaces of a host."""

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        if seconds > 0:
            time.sleep(seconds)
