"""What a path's next answer will take: computing as it was measured, and the link as it is."""

from __future__ import annotations

from collections import deque
from typing import final

from tierwise.measure import Reply
from tierwise.runtime._ewma import Ewma
from tierwise.runtime._link_state import LinkState

__all__ = ["ON_LINK", "Forecast", "link_seconds"]

ON_LINK = frozenset({"uplink", "downlink", "network"})
_KEPT = 64
_LEAST_FOR_P95 = 20
# Two mean deviations are 1.6 standard deviations of a normal distribution.
_CAREFUL = 2.0


def link_seconds(reply: Reply) -> float:
    """Time that an answer and its request spent on links."""
    return sum(stage.seconds for stage in reply.stages if stage.stage in ON_LINK)


@final
class Forecast:
    """Predicts a path's latency as computing + round trip + bytes / goodput. Pure; its owner guards it.

    An answer may stay on this side of the link: a filter dropped the picture, or an exit had an answer. Such answers
    make a path fast on average, and tell nothing of what the others take; the two are kept apart.

    Args:
        link: The link the path crosses, which other paths may cross too; None where there is none.
        request_bytes: What its requests send over the link, where that is known before one did.
    """

    def __init__(self, link: LinkState | None, request_bytes: int | None = None) -> None:
        self._link, self._request_bytes = link, request_bytes
        self._compute_s, self._bytes_up, self._bytes_down = Ewma(), Ewma(), Ewma()
        # One answer is all or nothing: a share takes more of them than a mean.
        self._stayed_s, self._crossing_frac = Ewma(), Ewma(weight=0.1)
        self._latencies_s: deque[float] = deque(maxlen=_KEPT)
        self.observed_ns: int | None = None

    @property
    def expected_s(self) -> float | None:
        """The usual latency; before the first answer the link's part of it where that is known, else None."""
        sent_s, stayed_s, crossing = self._sent_s, self._stayed_s.mean, self._crossing_frac.mean
        if sent_s is None or stayed_s is None or crossing is None:
            return stayed_s if sent_s is None else sent_s
        return crossing * sent_s + (1.0 - crossing) * stayed_s

    @property
    def least_s(self) -> float | None:
        """What an answer takes on the link alone; None where that is not known."""
        sent_bytes = self._bytes_up.mean if self._bytes_up.mean is not None else self._request_bytes
        if self._link is None or sent_bytes is None:
            return None
        return self._link.seconds(sent_bytes, self._bytes_down.mean or 0.0)

    @property
    def careful_s(self) -> float | None:
        """A latency that is seldom exceeded: two mean deviations above the usual one of what crosses the link.

        Whether a request will cross it is not known beforehand, and its answer has to keep the deadline if it does.
        None where nothing is known of what crosses.
        """
        sent_s = self._sent_s
        if sent_s is None:
            return None
        spread_s = self._compute_s.deviation + (self._link.spread_s if self._link else 0.0)
        return sent_s + _CAREFUL * spread_s

    @property
    def p95_s(self) -> float | None:
        """95th percentile of the last 64 latencies; None before there are 20."""
        if len(self._latencies_s) < _LEAST_FOR_P95:
            return None
        return sorted(self._latencies_s)[int(0.95 * len(self._latencies_s))]

    def observe(self, reply: Reply, latency_s: float, now_ns: int) -> None:
        """Learn from an answer, for the path and for its link."""
        # A server that gives no account seems to spend everything on the way, also where no link lies on it.
        on_link_s = min(link_seconds(reply), latency_s) if self._link is not None else 0.0
        crossed = self._link is None or reply.bytes_up > 0
        self._latencies_s.append(latency_s)
        self.observed_ns = now_ns
        self._crossing_frac.observe(float(crossed), now_ns)
        if not crossed:
            self._stayed_s.observe(latency_s, now_ns)
            return
        self._compute_s.observe(latency_s - on_link_s, now_ns)
        self._bytes_up.observe(reply.bytes_up, now_ns)
        self._bytes_down.observe(reply.bytes_down, now_ns)
        if self._link is not None and on_link_s > 0:
            self._link.observe(reply.bytes_up, reply.bytes_down, on_link_s, now_ns)

    @property
    def _sent_s(self) -> float | None:
        """The usual latency of what crosses the link; before the first such answer the link's part, where known."""
        if self._compute_s.mean is None:
            return self.least_s
        return self._compute_s.mean + self._link_s()

    def _link_s(self) -> float:
        if self._link is None:
            return 0.0
        return self._link.seconds(self._bytes_up.mean or 0.0, self._bytes_down.mean or 0.0) or 0.0
