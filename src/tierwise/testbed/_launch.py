"""Becomes another program after binding itself to an owner and to control groups.

Run by its path with the interpreter isolated, so that it starts in a few hundredths of a second: it must import nothing
outside the standard library. ``_launch.py OWNER_PID [--cgroup PROCS_FILE]... -- PROGRAM ARGUMENT...``
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_BEFORE_OTHERS = -10


def _step_forward() -> None:
    """Go before other processes: what emulates a machine should not notice what else this one does. Only root may."""
    # Where the kernel groups processes by session, that group counts, not the process's own niceness.
    for ask in (lambda: os.nice(_BEFORE_OTHERS), lambda: _write("/proc/self/autogroup", str(_BEFORE_OTHERS))):
        try:  # noqa: SIM105  (contextlib costs start-up time)
            ask()
        except OSError:
            pass


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123  (pathlib costs start-up time)
        file.write(text)


def main(arguments: list[str]) -> None:
    """Bind and become the program; returns never."""
    owner = int(arguments.pop(0))
    while arguments[0] == "--cgroup":
        _write(arguments[1], "0")  # this process
        del arguments[:2]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _step_forward()
    # The owner may have died before the kernel was asked to tell.
    if os.getppid() != owner:
        sys.exit("the owner is gone")
    os.execvp(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
