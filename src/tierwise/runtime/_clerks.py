"""Who computes and ends the requests that no thread waits with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import final

from tierwise.runtime._call import Call
from tierwise.runtime._line import Ticket
from tierwise.runtime._probe import Probe
from tierwise.runtime._refusal import RefusalError
from tierwise.runtime._served import Served
from tierwise.runtime._visit import Visit

__all__ = ["Clerks", "Stay", "Told"]

Told = Callable[[bytes | RefusalError], None]


@final
@dataclass
class Stay:
    """A request for inference while it is at the desk.

    Attributes:
        call: The request.
        model: The model that it asked for, as soon as that is found.
        visit: Its visit, as soon as it is let in.
        held: Its place among those of who asks.
        inside: Whether it counts among those under way.
        told: Called once with its answer or refusal, where no thread waits for it.
    """

    call: Call
    model: Served | Probe | None = None
    visit: Visit | None = None
    held: AbstractContextManager[None] | None = None
    inside: bool = False
    told: Told | None = None


@final
class Clerks:
    """As many threads as there are turns at once: each takes what has its turn or its result, and ends it.

    A batch's answers are all made, one after the other, before the thread turns to the next batch. There are enough of
    them: who hands out results has a turn, so that not all of the others can be computing.

    Args:
        count: How many.
        end: Ends a request; it must not raise.
    """

    def __init__(self, count: int, end: Callable[[Stay, Ticket], None]) -> None:
        self._count, self._end = count, end
        self._todo: SimpleQueue[tuple[Stay, Ticket] | None] = SimpleQueue()
        self._mutex = threading.Lock()
        self._here = False

    def teller(self, stay: Stay) -> Callable[[Ticket], None]:
        """What puts ``stay`` before a clerk, as soon as it is called with its ticket."""
        if not self._here:
            self._come()
        todo = self._todo
        return lambda ticket: todo.put((stay, ticket))

    def close(self) -> None:
        """Let the threads go when they have nothing left to do."""
        with self._mutex:
            if self._here:
                for _ in range(self._count):
                    self._todo.put(None)

    def _come(self) -> None:
        """Start the threads, once and when they are needed: a node that is asked over gRPC only has none."""
        with self._mutex:
            if self._here:
                return
            for _ in range(self._count):
                threading.Thread(target=self._work, name="clerk", daemon=True).start()
            self._here = True

    def _work(self) -> None:
        while (next_ := self._todo.get()) is not None:
            self._end(*next_)
            del next_  # a request is not kept until the next one comes
