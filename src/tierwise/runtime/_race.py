"""One request, several attempts at it: the first answer counts, and no other ever does."""

from __future__ import annotations

import threading
from typing import final

from tierwise.measure import Reply

__all__ = ["Race"]


@final
class Race:
    """Collects what the attempts at one request come to; safe for threads.

    Every `enter` is followed by one `offer` or one `fail`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._winner: Reply | None = None
        self._closed = False
        self._errors: list[tuple[str, Exception]] = []

    @property
    def winner(self) -> Reply | None:
        """The answer, once there is one."""
        with self._changed:
            return self._winner

    @property
    def open(self) -> bool:
        """Whether an answer is still wanted."""
        with self._changed:
            return self._winner is None and not self._closed

    @property
    def errors(self) -> list[tuple[str, Exception]]:
        """What failed so far: name of the path and its error, in the order they failed."""
        with self._changed:
            return list(self._errors)

    def enter(self) -> None:
        """An attempt begins."""
        with self._changed:
            self._running += 1

    def offer(self, reply: Reply) -> bool:
        """An attempt has an answer; whether it is the one that counts."""
        with self._changed:
            self._running -= 1
            first = self._winner is None and not self._closed
            if first:
                self._winner = reply
            self._changed.notify_all()
            return first

    def fail(self, name: str, error: Exception) -> None:
        """An attempt has come to nothing."""
        with self._changed:
            self._running -= 1
            self._errors.append((name, error))
            self._changed.notify_all()

    def wait(self, patience_s: float | None) -> bool:
        """Wait for an answer, as long as any attempt is under way and at most ``patience_s``; whether there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._winner is not None or not self._running, patience_s)
            return self._winner is not None

    def close(self) -> None:
        """No answer is wanted any more: the request has been given up."""
        with self._changed:
            self._closed = True
