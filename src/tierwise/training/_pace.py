"""How much of a CPU training takes, and when it lets others go first."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from pathlib import Path
from typing import Final, final

__all__ = ["Busy", "Pace", "step_aside"]

# How long one step waits for requests at most: a node that is never idle still learns, about a step a second.
_LONGEST_S: Final = 1.0
_LOOK_S: Final = 0.002


def step_aside() -> None:
    """Let every other process of the machine go first, as far as its system lets a process say so."""
    os.nice(19)
    with contextlib.suppress(AttributeError, OSError):  # Linux; a sandbox may refuse it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        # Where memory runs out, training ends and serving goes on.
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


@final
class Pace:
    """Keeps the CPU time of this process at or below a share of one CPU.

    Work that took c seconds of CPU time pushes the next back to c / share after its own start. Time that was not used
    is not saved up, so that the share holds over every stretch of a few steps.

    Args:
        share_frac: The share.
    """

    def __init__(self, share_frac: float) -> None:
        self._share_frac = share_frac
        self._began_s, self._began_cpu_s = time.monotonic(), time.process_time()
        self._free_s, self._cpu_s = self._began_s, self._began_cpu_s

    @property
    def wait_s(self) -> float:
        """How long until work may begin; 0 where it may now."""
        return max(0.0, self._free_s - time.monotonic())

    @property
    def used_frac(self) -> float:
        """Share of one CPU that was used since the beginning."""
        passed_s = time.monotonic() - self._began_s
        return (time.process_time() - self._began_cpu_s) / passed_s if passed_s > 0 else 0.0

    def worked(self, began_s: float) -> float:
        """Count what was done since `worked` was last called.

        Args:
            began_s: When that began, on the monotonic clock.

        Returns:
            Its CPU time.
        """
        cpu_s = time.process_time()
        took_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        self._free_s = max(self._free_s, began_s) + took_s / self._share_frac
        return took_s


@final
class Busy:
    """How many requests the serving process has under way, in one byte of memory that it shares.

    Args:
        number: The open file of the byte.
    """

    def __init__(self, number: int) -> None:
        self._byte = mmap.mmap(number, 1, access=mmap.ACCESS_READ)

    def wait(self) -> None:
        """Return when there are none, or after a second."""
        until_s = time.monotonic() + _LONGEST_S
        while self._byte[0] and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
