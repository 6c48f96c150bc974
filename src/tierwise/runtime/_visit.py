"""One request on one node: its turn to compute and where its time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from tierwise._clock import Clock
from tierwise._errors import RemoteError
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._turnstile import Turnstile

__all__ = ["Timeline", "Visit"]

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
        turnstile: Who computes next.
        pace_frac: See `NodeSpec`.
        clock: The host's clock.
        timeout_s: Time the client waits from ``received_ns`` on; None where it did not say.
        received_ns: When the request had arrived; None: now.

    Attributes:
        tier: The node's tier.
        timeline: Its stages so far.
        items: Items it holds; 0 before they are known.
        batch_size: Items that were computed at once, others' among them; 0 where nothing was computed here.
    """

    def __init__(
        self,
        tier: str,
        turnstile: Turnstile,
        pace_frac: float,
        clock: Clock,
        timeout_s: float | None = None,
        received_ns: int | None = None,
    ) -> None:
        self.tier, self.timeline = tier, Timeline()
        self.items = self.batch_size = 0
        self._turnstile, self._clock, self._timeout_s = turnstile, clock, timeout_s
        self._stretch = 1.0 / pace_frac - 1.0
        self._owed_ns = 0.0
        self._started_ns = clock.now_ns() if received_ns is None else received_ns
        self._encoding: tuple[int, int] | None = None

    @property
    def left_s(self) -> float | None:
        """Time the client still waits; None where it did not say."""
        if self._timeout_s is None:
            return None
        return max(0.001, self._timeout_s - (self._clock.now_ns() - self._started_ns) / 1e9)

    def now_ns(self) -> int:
        """The host's clock."""
        return self._clock.now_ns()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The stage ``queue``, then the block while this request has its turn to compute.

        Raises:
            RefusalError: The client has given up meanwhile; nobody would read what is computed.
        """
        started_ns = self._clock.now_ns()
        with self._turnstile.turn():
            waited_ns = self._clock.now_ns() - started_ns
            self.timeline.add(self.tier, "queue", waited_ns)
            if self._timeout_s is not None and self._clock.now_ns() - self._started_ns > self._timeout_s * 1e9:
                late = RemoteError(
                    f"the request must get its turn within {self._timeout_s:.3g} s", got=f"{waited_ns / 1e9:.3g} s"
                )
                raise RefusalError(Code.TOO_LATE, late)
            yield

    @contextmanager
    def computing(self, stage: str) -> Iterator[None]:
        """The block is work of this node: it is timed and, where the node is paced, stretched.

        The stretch follows the calling thread's CPU time, so that neither waiting nor other processes are stretched
        too. A session with several threads computes on the calling thread throughout, which therefore stands for all.
        """
        started = self._clock.now_ns(), time.thread_time_ns()
        try:
            yield
        finally:
            self._count(stage, *started)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """As ``computing("encode")``, but the stage ends earlier where `encoded` is called in the block."""
        self._encoding = self._clock.now_ns(), time.thread_time_ns()
        try:
            yield
        finally:
            self.encoded()

    def encoded(self) -> None:
        """End the stage ``encode``, if it is under way."""
        if self._encoding is not None:
            started, self._encoding = self._encoding, None
            self._count("encode", *started)

    def spent(self) -> dict[str, int]:
        """Nanoseconds of this node by stage."""
        return {stage: ns for tier, stage, ns in self.timeline.entries() if tier == self.tier}

    def _count(self, stage: str, started_ns: int, cpu_ns: int) -> None:
        if self._stretch > 0:
            self._sleep(time.thread_time_ns() - cpu_ns)
        self.timeline.add(self.tier, stage, self._clock.now_ns() - started_ns)

    def _sleep(self, cpu_ns: int) -> None:
        """Sleep what the work owes; what a sleep lasted too long is taken off the next one."""
        self._owed_ns += cpu_ns * self._stretch
        if self._owed_ns < _SHORTEST_SLEEP_NS:
            return
        started_ns = self._clock.now_ns()
        self._clock.sleep(self._owed_ns / 1e9)
        self._owed_ns -= self._clock.now_ns() - started_ns
