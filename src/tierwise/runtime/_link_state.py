"""What is known of a link: round trip and goodput each way, learnt from what has crossed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tierwise.runtime._ewma import Ewma

__all__ = ["LinkFacts", "LinkState"]

# A message of more teaches a rate. One of less does too where carrying it takes longer than the round trip.
_BULK_BYTES = 4096
_LEAST_BYTES, _LONGER = 1024, 1.5
# Two exchanges in a row that take more than twice, or less than half of what was expected: it is another link now.
_STEP = 2.0
_STEP_RUN = 2
# The part that is being learnt never comes out below this share of the whole.
_LEAST_SHARE = 0.05


@final
@dataclass(frozen=True)
class LinkFacts:
    """A link as it was at one moment; None where nothing is known.

    Attributes:
        rtt_s: Round trip of a small message.
        up_bps: Goodput upwards: payload bits per second.
        down_bps: Goodput downwards.
    """

    rtt_s: float | None
    up_bps: float | None
    down_bps: float | None


@final
class LinkState:
    """Round trip and goodput of a link (or of several in a row) as moving means. Pure: it is told the time.

    Time on a link is taken as ``rtt + bytes_up / up_rate + bytes_down / down_rate``. One exchange gives one sum: a
    small one teaches the round trip, a larger one the rate of the direction that took most of it. (A round trip that
    changes while only large messages cross is taken for a rate until a small one does; forecasts for messages of that
    size are right all the same.)

    A mean follows a slow change. After a step (two exchanges in a row took more than twice as long as expected, or less
    than half) what they teach is learnt anew, so that the second one is believed at once; one late exchange alone (a
    packet that was sent again) moves the mean by a quarter. ``steps`` counts them.

    Not safe for threads; its owner guards it.
    """

    def __init__(self) -> None:
        self.rated_ns = 0  # when a rate was last learnt
        self.steps = 0
        self.forget()

    def forget(self) -> None:
        """Begin anew: after a break the link may be another one."""
        self._rtt_s = Ewma()
        # Seconds a bit, not bits a second: times add up, rates do not.
        self._up_s, self._down_s = Ewma(), Ewma()
        self._spread_s = Ewma()
        self._run, self._side = 0, 0

    @property
    def facts(self) -> LinkFacts:
        """What is known now."""
        up_s, down_s = self._up_s.mean, self._down_s.mean
        return LinkFacts(self._rtt_s.mean, 1 / up_s if up_s else None, 1 / down_s if down_s else None)

    @property
    def spread_s(self) -> float:
        """How far the link's times usually are from the forecast."""
        return self._spread_s.mean or 0.0

    def seconds(self, bytes_up: float, bytes_down: float) -> float | None:
        """How long an exchange of that size takes; None before anything was seen."""
        if self._rtt_s.mean is None and self._up_s.mean is None:
            return None
        return (self._rtt_s.mean or 0.0) + self._carry_s(self._up_s, bytes_up) + self._carry_s(self._down_s, bytes_down)

    def observe(self, bytes_up: int, bytes_down: int, seconds: float, now_ns: int) -> None:
        """Learn from an exchange that spent ``seconds`` on the link, both ways together."""
        expected_s = self.seconds(bytes_up, bytes_down)
        bulk = self._is_bulk(bytes_up, bytes_down, seconds)
        if expected_s is not None:
            self._spread_s.observe(abs(seconds - expected_s), now_ns)
            self._note_step(seconds, expected_s, bulk=bulk)
        rtt_s = self._rtt_s.mean
        if rtt_s is not None and seconds < rtt_s:
            # Whatever else it did, it made the round trip in that time.
            self._rtt_s.observe(seconds, now_ns)
            rtt_s = self._rtt_s.mean
        up_s, down_s = self._carry_s(self._up_s, bytes_up), self._carry_s(self._down_s, bytes_down)
        if not bulk:
            self._rtt_s.observe(max(seconds - up_s - down_s, _LEAST_SHARE * seconds), now_ns)
            return
        both = self._up_s.mean is not None and self._down_s.mean is not None
        upwards = up_s >= down_s if both else bytes_up >= bytes_down
        self.rated_ns = now_ns
        left_s = max(seconds - (rtt_s or 0.0) - (down_s if upwards else up_s), _LEAST_SHARE * seconds)
        if upwards:
            self._up_s.observe(left_s / (8 * bytes_up), now_ns)
        else:
            self._down_s.observe(left_s / (8 * bytes_down), now_ns)

    def _is_bulk(self, bytes_up: int, bytes_down: int, seconds: float) -> bool:
        if bytes_up + bytes_down >= _BULK_BYTES:
            return True
        if self._rtt_s.mean is None:
            return False
        if self._up_s.mean is None:
            # Nothing is known of the rate: what takes much longer than the round trip is being carried.
            return bytes_up + bytes_down >= _LEAST_BYTES and seconds > _LONGER * self._rtt_s.mean
        carry_s = self._carry_s(self._up_s, bytes_up) + self._carry_s(self._down_s, bytes_down)
        return carry_s > self._rtt_s.mean

    def _note_step(self, seconds: float, expected_s: float, *, bulk: bool) -> None:
        side = 1 if seconds > _STEP * expected_s else -1 if _STEP * seconds < expected_s else 0
        self._run = self._run + 1 if side != 0 and side == self._side else abs(side)
        self._side = side
        if self._run < _STEP_RUN:
            return
        self.steps += 1
        self._run, self._side, self._spread_s = 0, 0, Ewma()
        if bulk:
            self._up_s, self._down_s = Ewma(), Ewma()
        else:
            self._rtt_s = Ewma()

    def _carry_s(self, per_bit: Ewma, size_bytes: float) -> float:
        return 8 * size_bytes * (per_bit.mean or self._up_s.mean or 0.0)
