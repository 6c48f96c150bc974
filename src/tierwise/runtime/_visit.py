"""One request on one node: its turn to compute and where its time went."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, final

from tierwise._clock import Clock
from tierwise.runtime._curve import Curve
from tierwise.runtime._line import Line, Ticket

__all__ = ["Span", "Timeline", "Visit"]

# A sleep lasts some 60 µs longer than asked, so shorter ones would only add error.
_SHORTEST_SLEEP_NS = 50_000


@final
class Timeline:
    """Nanoseconds by (tier, stage) in the order of first appearance; what comes again is added."""

    def __init__(self) -> None:
        self._ns: dict[tuple[str, str], int] = {}

    def add(self, tier: str, stage: str, ns: int) -> None:
        """Count ``ns`` for a stage; a clock that did not advance counts as 0."""
        self._ns[tier, stage] = self._ns.get((tier, stage), 0) + max(ns, 0)

    def entries(self) -> list[tuple[str, str, int]]:
        """All stages as (tier, stage, nanoseconds)."""
        return [(tier, stage, ns) for (tier, stage), ns in self._ns.items()]


@final
class Visit:
    """A request while it is on this node.

    Args:
        tier: The node's tier.
        line: Where it waits for its turn.
        pace_frac: See `NodeSpec`.
        clock: The host's clock.
        timeout_s: Time the client waits from ``received_ns`` on; None where it did not say.
        received_ns: When the request had arrived; None: now.
        priority: Its place in the line: lower goes first; 0: as the model says.

    Attributes:
        tier: The node's tier.
        timeline: Its stages so far.
        items: Items it holds; 0 before they are known.
        batch_size: Items that were computed at once, others' among them; 0 where nothing was computed here.
        marks: (stage, began, ended) of its stages as they came, on the host's clock.
    """

    def __init__(
        self,
        tier: str,
        line: Line,
        pace_frac: float,
        clock: Clock,
        timeout_s: float | None = None,
        received_ns: int | None = None,
        priority: int = 0,
    ) -> None:
        self.tier, self.timeline = tier, Timeline()
        self.items = self.batch_size = 0
        self.marks: list[tuple[str, int, int]] = []
        self._line, self._clock, self._timeout_s, self._priority = line, clock, timeout_s, priority
        self._stretch = 1.0 / pace_frac - 1.0
        self._owed_ns = 0.0
        self._started_ns = clock.now_ns() if received_ns is None else received_ns
        self._encoding: Span | None = None

    @property
    def left_s(self) -> float | None:
        """Time the client still waits; None where it did not say."""
        if self._timeout_s is None:
            return None
        return max(0.001, self._timeout_s - (self._clock.now_ns() - self._started_ns) / 1e9)

    def now_ns(self) -> int:
        """The host's clock."""
        return self._clock.now_ns()

    def ticket(
        self, items: int = 1, key: Hashable = None, curve: Curve | None = None, load: Any = None, priority: int = 2
    ) -> Ticket:
        """A place in the line for this request; ``priority`` counts where the request has none of its own."""
        deadline_ns = None if self._timeout_s is None else self._started_ns + round(self._timeout_s * 1e9)
        return Ticket(self._priority or priority, deadline_ns, items, key, curve, load=load)

    @contextmanager
    def turn(self, ticket: Ticket | None = None) -> Iterator[None]:
        """The stage ``queue``, then the block while this request has its turn to compute.

        Raises:
            RefusalError: The client's deadline cannot be met or passed; nobody would read what is computed.
        """
        ticket = ticket or self.ticket()
        with self._line.turn(ticket):
            self.queued(ticket.joined_ns)
            yield

    def queued(self, joined_ns: int) -> None:
        """The stage ``queue`` began at ``joined_ns`` and ends now."""
        now_ns = self._clock.now_ns()
        self.timeline.add(self.tier, "queue", now_ns - joined_ns)
        self.marks.append(("queue", joined_ns, now_ns))

    def computing(self, stage: str) -> Span:
        """The block is work of this node: it is timed and, where the node is paced, stretched.

        The stretch follows the calling thread's CPU time, so that neither waiting nor other processes are stretched
        too. A session with several threads computes on the calling thread throughout, which therefore stands for all.
        """
        return Span(self, stage)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """As ``computing("encode")``, but the stage ends earlier where `encoded` is called in the block."""
        self._encoding = self.computing("encode")
        self._encoding.__enter__()
        try:
            yield
        finally:
            self.encoded()

    def encoded(self) -> None:
        """End the stage ``encode``, if it is under way."""
        if self._encoding is not None:
            span, self._encoding = self._encoding, None
            span.__exit__(None, None, None)

    def spent(self) -> dict[str, int]:
        """Nanoseconds of this node by stage."""
        return {stage: ns for tier, stage, ns in self.timeline.entries() if tier == self.tier}

    def cpu_ns(self) -> int:
        """CPU time of the calling thread, where the node is paced; 0 otherwise, because asking takes a system call."""
        return time.thread_time_ns() if self._stretch > 0 else 0

    def count(self, stage: str, started_ns: int, cpu_ns: int) -> None:
        """End a stage that began at ``started_ns`` with ``cpu_ns`` on the thread's account."""
        if self._stretch > 0:
            self._sleep(time.thread_time_ns() - cpu_ns)
        now_ns = self._clock.now_ns()
        self.timeline.add(self.tier, stage, now_ns - started_ns)
        self.marks.append((stage, started_ns, now_ns))

    def _sleep(self, cpu_ns: int) -> None:
        """Sleep what the work owes; what a sleep lasted too long is taken off the next one."""
        self._owed_ns += cpu_ns * self._stretch
        if self._owed_ns < _SHORTEST_SLEEP_NS:
            return
        started_ns = self._clock.now_ns()
        self._clock.sleep(self._owed_ns / 1e9)
        self._owed_ns -= self._clock.now_ns() - started_ns


@final
class Span:
    """A block of work that is timed for a visit, see `Visit.computing`."""

    __slots__ = ("_cpu_ns", "_stage", "_started_ns", "_visit")

    def __init__(self, visit: Visit, stage: str) -> None:
        self._visit, self._stage = visit, stage

    def __enter__(self) -> None:
        self._started_ns, self._cpu_ns = self._visit.now_ns(), self._visit.cpu_ns()

    def __exit__(self, *_: object) -> None:
        self._visit.count(self._stage, self._started_ns, self._cpu_ns)
