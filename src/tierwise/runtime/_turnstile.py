"""First come, first served: who computes next on a node."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

__all__ = ["Turnstile"]


@final
class Turnstile:
    """Lets ``width`` threads compute at once and the others wait in the order they came (a lock promises no order)."""

    def __init__(self, width: int) -> None:
        self._free = width
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and keep it while the block runs."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._mutex:
            if self._free:
                self._free -= 1
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()

    def _leave(self) -> None:
        with self._mutex:
            if self._waiting:
                # The turn passes on: nobody who comes now gets in between.
                self._waiting.popleft().release()
            else:
                self._free += 1
