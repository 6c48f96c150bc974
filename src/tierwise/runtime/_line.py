"""The line in which requests wait for their turn to compute, by priority, order and deadline."""

from __future__ import annotations

import bisect
import enum
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, final

from tierwise._clock import Clock
from tierwise._errors import RemoteError
from tierwise.runtime._curve import Curve
from tierwise.runtime._refusal import Code, RefusalError

__all__ = ["LAST", "Line", "Ticket"]

LAST: Final = 1 << 31
"""The priority of what shall disturb nobody."""

_LONGEST_S: Final = 86_400.0  # a lock can wait no longer than some centuries


@final
class _State(enum.Enum):
    WAITS = "waits"
    LEADS = "leads"
    TAKEN = "taken"
    LATE = "late"


@final
@dataclass(eq=False)
class Ticket:
    """A place in the line.

    Attributes:
        priority: Lower ones go first; equal ones in the order they came.
        deadline_ns: When its client gives up, on the line's clock; None: never.
        items: Items to compute.
        key: Tickets of one key can be computed at once; None: only alone.
        curve: How long its model computes.
        most: Most items its model computes at once.
        budget_ns: Longest time its model computes at once.
        load: What to compute.
        result: What came of it, or the error, where another ticket's turn computed it too.
        told: For a ticket that no thread waits with (`Line.join`): called with it once it has its turn or its result,
            from the thread that gives it; it must return at once.
    """

    priority: int = 0
    deadline_ns: int | None = None
    items: int = 1
    key: Hashable = None
    curve: Curve | None = None
    most: int = 1
    budget_ns: float = 0.0
    load: Any = None
    result: Any = None
    joined_ns: int = 0
    told: Callable[[Ticket], None] | None = None
    _number: int = 0
    _state: _State = _State.WAITS
    _gate: threading.Lock = field(default_factory=threading.Lock)

    def order(self) -> tuple[int, int]:
        """Its place among those that wait."""
        return self.priority, self._number

    @property
    def leads(self) -> bool:
        """Whether it has its turn."""
        return self._state is _State.LEADS

    def _wake(self) -> None:
        if self.told is None:
            self._gate.release()
        else:
            self.told(self)


@final
class Line:
    """Lets ``width`` tickets compute at once; the others wait.

    A ticket whose deadline cannot be met, by what is known about its model and those in front, is refused when it
    joins; one whose deadline passes while it waits is refused then, and never computed.

    Args:
        width: Turns at once.
        clock: The host's clock.
    """

    def __init__(self, width: int, clock: Clock) -> None:
        self.width, self._free, self._clock = width, width, clock
        self._mutex = threading.Lock()
        self._waiting: list[Ticket] = []  # in order
        self._running: dict[Ticket, float] = {}  # when each is expected to end
        self._joined = 0
        self._patient: set[Ticket] = set()  # those that lead and wait for more of their kind

    def __len__(self) -> int:
        return len(self._waiting)

    def now_ns(self) -> int:
        """The host's clock."""
        return self._clock.now_ns()

    @contextmanager
    def turn(self, ticket: Ticket) -> Iterator[None]:
        """Wait for a turn and keep it while the block runs; for tickets that compute alone.

        Raises:
            RefusalError: As `enter`.
        """
        self.enter(ticket)
        try:
            yield
        finally:
            self.leave(ticket)

    def enter(self, ticket: Ticket) -> bool:
        """Wait until the ticket has its turn or another computed it too.

        Returns:
            True: it has its turn and must `leave`. False: ``ticket.result`` is there.

        Raises:
            RefusalError: EXHAUSTED where its deadline cannot be met, TOO_LATE where it passed.
        """
        return self._takes_turn(ticket) or self._wait(ticket)

    def join(self, ticket: Ticket) -> None:
        """As `enter`, without waiting: ``ticket.told`` is called, perhaps before this returns.

        Only for tickets without a deadline: nobody watches the clock for them.
        """
        assert ticket.told is not None
        assert ticket.deadline_ns is None
        if self._takes_turn(ticket):
            ticket.told(ticket)

    def _takes_turn(self, ticket: Ticket) -> bool:
        """Put a ticket into the line; whether it has its turn at once."""
        with self._mutex:
            now_ns = ticket.joined_ns = self._clock.now_ns()
            self._joined += 1
            ticket._number = self._joined
            if ticket.deadline_ns is not None:
                self._check_hope(ticket, now_ns)
            if self._free:
                self._free -= 1
                ticket._state = _State.LEADS
                self._running[ticket] = now_ns + _alone_ns(ticket)
                return True
            ticket._gate.acquire()
            bisect.insort(self._waiting, ticket, key=Ticket.order)
            for leader in self._patient:
                _open(leader._gate)
        return False

    def leave(self, ticket: Ticket) -> None:
        """Give the turn to the next in line: nobody who comes now gets in between."""
        with self._mutex:
            self._running.pop(ticket, None)
            now_ns = self._clock.now_ns()
            while self._waiting:
                head = self._waiting.pop(0)
                late = head.deadline_ns is not None and now_ns + _alone_ns(head, least=True) > head.deadline_ns
                head._state = _State.LATE if late else _State.LEADS
                if not late:
                    self._running[head] = now_ns + _alone_ns(head)
                head._wake()
                if not late:
                    return
            self._free += 1

    def crowd(self, key: Hashable) -> tuple[int, bool, int]:
        """Items of a key that wait, whether anything else waits, and how many have joined the line so far."""
        with self._mutex:
            items = sum(ticket.items for ticket in self._waiting if ticket.key == key)
            return items, any(ticket.key != key for ticket in self._waiting), self._joined

    def take(self, leader: Ticket, most: int) -> list[Ticket]:
        """Those of the leader's key that compute in its turn too, in order, up to ``most`` items with its own."""
        with self._mutex:
            taken, items, now_ns = [], leader.items, self._clock.now_ns()
            for ticket in [ticket for ticket in self._waiting if ticket.key == leader.key]:
                late = ticket.deadline_ns is not None and now_ns > ticket.deadline_ns
                if not late and items + ticket.items > most:
                    continue
                self._waiting.remove(ticket)
                ticket._state = _State.LATE if late else _State.TAKEN
                if late:
                    ticket._wake()
                else:
                    items += ticket.items
                    taken.append(ticket)
            if leader.curve is not None:
                self._running[leader] = now_ns + leader.curve.ns(items)
            return taken

    def finish(self, ticket: Ticket, result: Any) -> None:
        """Hand a taken ticket what came of it."""
        ticket.result = result
        ticket._wake()

    def wait_for_more(self, leader: Ticket, joined: int, wait_ns: float) -> bool:
        """Wait until more than ``joined`` have joined the line, at most ``wait_ns``; whether they did."""
        with self._mutex:
            if self._joined > joined:
                return True
            leader._gate.acquire(blocking=False)
            self._patient.add(leader)
        came = leader._gate.acquire(timeout=max(wait_ns, 0) / 1e9)
        with self._mutex:
            self._patient.discard(leader)
        return came

    def _wait(self, ticket: Ticket) -> bool:
        if ticket.deadline_ns is not None:
            left_s = min((ticket.deadline_ns - self._clock.now_ns()) / 1e9, _LONGEST_S)
            if not ticket._gate.acquire(timeout=max(left_s, 0.0)):
                with self._mutex:
                    if ticket._state is _State.WAITS:
                        self._waiting.remove(ticket)
                        ticket._state = _State.LATE
                if ticket._state is not _State.LATE:
                    ticket._gate.acquire()
        else:
            ticket._gate.acquire()
        if ticket._state is _State.LATE:
            waited_s = (self._clock.now_ns() - ticket.joined_ns) / 1e9
            late = RemoteError("the request must get its turn before its deadline", got=f"{waited_s:.3g} s of waiting")
            raise RefusalError(Code.TOO_LATE, late)
        return ticket._state is _State.LEADS

    def _check_hope(self, ticket: Ticket, now_ns: int) -> None:
        """Refuse a ticket that would be late even if all goes as expected."""
        assert ticket.deadline_ns is not None
        left_ns = ticket.deadline_ns - now_ns
        if left_ns <= 0:
            late = RemoteError("the request must come before its deadline", got=f"{-left_ns / 1e9:.3g} s after it")
            raise RefusalError(Code.TOO_LATE, late)
        wait_ns = 0.0 if self._free else self._ahead_ns(ticket, now_ns)
        own_ns = _alone_ns(ticket, least=True)
        if wait_ns + own_ns > left_ns:
            hopeless = RemoteError(
                f"a request with {left_ns / 1e9:.3g} s left must find a shorter line",
                got=f"{wait_ns / 1e9:.3g} s of waiting and {own_ns / 1e9:.3g} s of computing",
                fix="Ask again later, or give it more time",
            )
            raise RefusalError(Code.EXHAUSTED, hopeless, retry_after_s=wait_ns / 1e9)

    def _ahead_ns(self, ticket: Ticket, now_ns: int) -> float:
        """Expected time until the ticket's turn."""
        ahead_ns = sum(max(0.0, ends_ns - now_ns) for ends_ns in self._running.values())
        batches: dict[Hashable, tuple[Ticket, int]] = {}
        for other in self._waiting:
            if other.priority > ticket.priority:
                break
            if other.key is None:
                ahead_ns += _alone_ns(other)
            else:
                batches[other.key] = (other, batches.get(other.key, (other, 0))[1] + other.items)
        for key, (other, items) in batches.items():
            assert other.curve is not None
            whole_ns = other.curve.queue_ns(items, other.most, other.budget_ns)
            if key == ticket.key:
                # It computes together with the last of its kind, whose time is its own then.
                whole_ns = other.curve.queue_ns(items + ticket.items, other.most, other.budget_ns)
                whole_ns = max(0.0, whole_ns - _alone_ns(ticket))
            ahead_ns += whole_ns
        return ahead_ns / self.width


def _alone_ns(ticket: Ticket, *, least: bool = False) -> float:
    if ticket.curve is None:
        return 0.0
    return ticket.curve.least_ns(ticket.items) if least else ticket.curve.ns(ticket.items)


def _open(gate: threading.Lock) -> None:
    if gate.locked():
        gate.release()
