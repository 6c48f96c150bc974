"""One direction of a link as arithmetic: when does what enters now come out? No sockets, no clock of its own."""

from __future__ import annotations

import random
import statistics
from collections import deque
from typing import final

from tierwise._config import Spec

__all__ = ["HEADER_BYTES", "MTU_BYTES", "QUEUE_PACKETS", "SEGMENT_BYTES", "Lane", "Lateness", "Shape"]

MTU_BYTES = 1500
# IPv4 header 20, TCP header 20, TCP timestamps 12.
HEADER_BYTES = 52
SEGMENT_BYTES = MTU_BYTES - HEADER_BYTES
# Linux' default transmit queue, and netem's.
QUEUE_PACKETS = 1000


class Shape(Spec, frozen=True, kw_only=True):
    """What one direction of a link does to packets.

    Attributes:
        rate_bps: Bits of IP packets per second.
        delay_s: One-way delay on top of the time a packet takes on the wire.
        jitter_s: Standard deviation of the delay (normal, cut at zero).
        loss_frac: Probability that a packet is lost, each on its own.
    """

    rate_bps: float
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss_frac: float = 0.0


@final
class Lane:
    """A first-in-first-out wire: a queue, then one packet after another at the rate, then the delay.

    The instants are seconds of any one clock and must not go back from call to call. Jitter never reorders: a packet
    leaves at the earliest when the one before it left.

    Args:
        shape: Rate, delay, jitter and loss.
        seed: Of this lane's own random stream.
        queue_bytes: What arrives while more than this waits is lost; the default is a queue of `QUEUE_PACKETS`.
    """

    __slots__ = ("_busy_s", "_last_s", "_limit_s", "_random", "_s_per_byte", "_shape")

    def __init__(self, shape: Shape, *, seed: int, queue_bytes: float = QUEUE_PACKETS * MTU_BYTES) -> None:
        self._shape = shape
        self._random = random.Random(seed)
        self._s_per_byte = 8.0 / shape.rate_bps
        self._limit_s = queue_bytes * self._s_per_byte
        self._busy_s = 0.0
        self._last_s = 0.0

    def enter(self, now_s: float, size_bytes: int) -> float | None:
        """Take a packet in; returns the instant it comes out, or None when the queue is full or it is lost."""
        start_s = self._busy_s if self._busy_s > now_s else now_s
        if start_s - now_s > self._limit_s:
            return None
        shape = self._shape
        if shape.loss_frac and self._random.random() < shape.loss_frac:
            return None  # as netem has it: what is lost takes no time on the wire
        self._busy_s = start_s + size_bytes * self._s_per_byte
        delay_s = shape.delay_s
        if shape.jitter_s:
            delay_s += self._random.gauss(0.0, shape.jitter_s)
        out_s = self._busy_s + delay_s if delay_s > 0.0 else self._busy_s
        if out_s < self._last_s:
            out_s = self._last_s
        self._last_s = out_s
        return out_s

    def backlog_s(self, now_s: float) -> float:
        """How long the wire is still busy with what has entered."""
        return max(0.0, self._busy_s - now_s)


@final
class Lateness:
    """How late a process usually is, learnt as it goes: a machine takes time to leave its idle state, work takes time.

    Packets are noticed that much after they came and let out that much after they were due. Both are corrected by it;
    otherwise a round trip is late by four times as much.

    Attributes:
        notice_s: From an event to the process running.
        release_s: From an instant the process waited for to the packet being out; `notice_s` and the work after it.
    """

    __slots__ = ("_noticed", "_released", "notice_s", "release_s")

    # No more than this is ever corrected: beyond, the machine is busy, which no correction makes up for.
    _MOST_S = 1e-3
    # The median of so many: a machine that is held up now and then is not usually late.
    _KEPT = 31

    def __init__(self) -> None:
        self._noticed: deque[float] = deque(maxlen=self._KEPT)
        self._released: deque[float] = deque(maxlen=self._KEPT)
        self.notice_s = self.release_s = 0.0

    def learn(self, notice_s: float, release_s: float) -> None:
        """Take note of one awakening, both since the instant that was waited for."""
        self._noticed.append(notice_s)
        self._released.append(release_s)
        self.notice_s, self.release_s = (
            min(max(statistics.median(seen), 0.0), self._MOST_S) for seen in (self._noticed, self._released)
        )
