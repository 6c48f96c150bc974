"""What a link did lately, as the forwards over it saw it."""

from __future__ import annotations

from typing import Final, final

__all__ = ["LinkMeter"]

# A tenth of the newest: some twenty forwards tell a changed link, and one late packet does not.
_NEWEST_FRAC: Final = 0.1


@final
class LinkMeter:
    """Exponentially weighted means over the forwards of one link; not thread-safe.

    Attributes:
        round_trip_s: Time a forward spent on the way, both ways together, without what the node above did. It holds
            the transfer of the forward's bytes, so it is an upper bound of the link's round-trip time, close to it
            where messages are small. None before the first forward.
        goodput_bytes_per_s: Message bytes both ways over that time: a lower bound of what the link can carry, close
            to it where messages are large. None before the first forward.
    """

    def __init__(self) -> None:
        self.round_trip_s: float | None = None
        self.goodput_bytes_per_s: float | None = None
        self._bytes = 0.0

    def saw(self, way_s: float, moved_bytes: int) -> None:
        """Count one forward.

        Args:
            way_s: Time on the way, both ways together.
            moved_bytes: Message bytes, both ways together.
        """
        way_s = max(way_s, 1e-9)  # two hosts' stamps may say that no time passed
        if self.round_trip_s is None:
            self.round_trip_s, self._bytes = way_s, float(moved_bytes)
        else:
            self.round_trip_s += _NEWEST_FRAC * (way_s - self.round_trip_s)
            self._bytes += _NEWEST_FRAC * (moved_bytes - self._bytes)
        # The ratio of means, not the mean of ratios: a small message says little about the rate and must weigh little.
        self.goodput_bytes_per_s = self._bytes / self.round_trip_s
