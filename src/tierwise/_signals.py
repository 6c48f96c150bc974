"""Being told to stop, heard whichever thread and microsecond a signal comes in."""

from __future__ import annotations

import signal
import socket
from typing import Final, Self, final

__all__ = ["Signals"]


@final
class Signals:
    """SIGTERM and SIGINT while a process serves, as a context of its main thread; one that comes before `wait` is kept.

    The interpreter writes each into a socket, whichever thread it reaches. A handler that set an event would run inside
    that event's own lock if the signal came in the wrong microsecond, and one that another thread took would not wake
    the main thread: the process would never stop.
    """

    _NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> Self:
        self._told, self._telling = socket.socketpair()
        self._telling.setblocking(False)
        self._descriptor = signal.set_wakeup_fd(self._telling.fileno())
        # Nothing is left to do for a handler, but without one the process would end.
        self._before = {number: signal.signal(number, lambda *_: None) for number in self._NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor)
        self._told.close()
        self._telling.close()

    def wait(self) -> None:
        """Return when one of them has come, or `end` was called."""
        while self._told.recv(1)[0] not in self._NUMBERS:
            pass

    def end(self) -> None:
        """Let `wait` return, as if a signal had come; for other threads, while the context lasts."""
        self._telling.send(bytes(self._NUMBERS[:1]))
