"""The machine's meters around requests: what they counted, and how much of it lies above the machine at rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import msgspec

from tierwise._clock import Clock
from tierwise._errors import UnavailableError
from tierwise.measure._meters import Meter, Running
from tierwise.measure._record import Record

__all__ = ["Rest", "Wattmeter"]


@final
class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that was asked nothing.

    Attributes:
        idle_w: What its meters counted a second.
        source: The meters.
    """

    idle_w: float
    source: str


@final
class Wattmeter:
    """All meters of one machine read together; making one takes ``rest_s``, in which nothing may be asked of it.

    Args:
        meters: What `open_meters` found; they cover different parts.
        clock: Times the spans.
        rest_s: How long the machine is looked at while it rests.

    Raises:
        UnavailableError: No meter, or one that cannot be read.

    Attributes:
        rest: The machine at rest.
    """

    def __init__(self, meters: Sequence[Meter], clock: Clock, *, rest_s: float = 1.0) -> None:
        if not meters:
            raise UnavailableError("energy is measured where the machine has a meter", got="none")
        self._meters, self._clock = tuple(meters), clock
        self.rest = Rest(idle_w=0.0, source="; ".join(meter.source for meter in meters))
        span = self.start()
        clock.sleep(rest_s)
        spent = span.stop()
        if spent is None:
            raise UnavailableError("a meter must be readable", got="none that is", where=self.rest.source)
        joules, took_s = spent
        self.rest = Rest(idle_w=joules / took_s, source=self.rest.source)

    def start(self) -> _Reading:
        """Begin a measurement."""
        return _Reading(self._meters, self._clock)

    def share(self, records: Sequence[Record], spent: tuple[float, float] | None) -> list[Record]:
        """``records`` with the energy of the span that all of them lay in, the same part for each.

        Args:
            records: What was asked in that span.
            spent: Joules and seconds; None where a meter failed, and the records stay without.
        """
        if spent is None or not records:
            return list(records)
        joules, took_s = spent
        each, above = joules / len(records), (joules - self.rest.idle_w * took_s) / len(records)
        return [msgspec.structs.replace(record, energy_j=each, above_idle_j=above) for record in records]


@final
class _Reading:
    """A span under all meters. One that fails costs the span its figure, never the session."""

    def __init__(self, meters: Sequence[Meter], clock: Clock) -> None:
        self._clock = clock
        self._running: list[Running] | None = None
        try:
            self._running = [meter.start() for meter in meters]
        except Exception:  # whatever a driver raises
            self._running = None
        self._began_ns = clock.now_ns()

    def stop(self) -> tuple[float, float] | None:
        """Joules and seconds since the start; None where a meter failed."""
        took_s = (self._clock.now_ns() - self._began_ns) / 1e9
        if self._running is None or took_s <= 0:
            return None
        try:
            return sum(one.stop().joules for one in self._running), took_s
        except Exception:  # as above
            return None
