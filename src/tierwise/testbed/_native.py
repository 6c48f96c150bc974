"""The few system calls that Python 3.11 does not offer: entering a network namespace, waking promptly."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Sequence

__all__ = ["be_prompt", "enter_network", "new_network"]

_CLONE_NEWNET = 0x40000000
_PR_SET_TIMERSLACK = 29


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def enter_network(path: str) -> None:
    """Move the calling thread into the network namespace at ``path``; OSError where that is not allowed."""
    namespace = os.open(path, os.O_RDONLY)
    try:
        _check(_libc().setns(namespace, _CLONE_NEWNET), f"setns {path}")
    finally:
        os.close(namespace)


def new_network(settings: Sequence[tuple[str, str]]) -> int:
    """A fresh network namespace as a file descriptor: it lives as long as that or a process in it.

    Having no name, it leaves nothing behind however its owner ends.

    Args:
        settings: Written in order to files under ``/proc/sys/net`` inside; those that this kernel lacks or refuses are
            skipped.

    Raises:
        OSError: The kernel refuses (PermissionError for an ordinary user).
    """
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        # In a thread of its own: a thread that has left the process's namespace is not used for anything else.
        try:
            _check(_libc().unshare(_CLONE_NEWNET), "unshare")
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        except OSError as error:
            failed.append(error)
            return
        for name, value in settings:
            with contextlib.suppress(OSError), open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
                file.write(value)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def be_prompt() -> None:
    """Let this process wake without the kernel's 50 µs of slack and before ordinary processes, where it may."""
    if sys.platform != "linux":
        return
    _libc().prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
