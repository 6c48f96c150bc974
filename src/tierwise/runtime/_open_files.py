"""Open files of a node: as many as it may have, and few words where they are used up."""

from __future__ import annotations

import contextlib
import logging
from typing import Final, final

__all__ = ["allow_open_files"]

_ENOUGH: Final = 65_536
_USED_UP: Final = "socket.accept() out of system resource"
_PAUSE_S: Final = 10.0


def allow_open_files() -> None:
    """Raise this process' limit to what the system lets it have, and say seldom that it is reached.

    Every connection is an open file, and the usual limit is 1024. Where it is reached, asyncio logs an error with a
    traceback for each connection that waits, thousands a second: strangers could fill a disk with them.
    """
    logging.getLogger("asyncio").addFilter(_SELDOM)
    try:
        import resource
    except ImportError:  # only Unix has it
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@final
class _Seldom:
    """A filter of log records: one in ten seconds says that connections cannot be accepted."""

    def __init__(self) -> None:
        self._from_s = 0.0

    def __call__(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(_USED_UP):
            return True
        if record.created < self._from_s:
            return False
        self._from_s = record.created + _PAUSE_S
        record.exc_info = None
        return True


_SELDOM: Final = _Seldom()
