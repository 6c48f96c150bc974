"""Ways to one answer (local, split at a rate, offload) over a link of any rate: how long each takes, and which wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from tierwise._errors import InputError
from tierwise.planner._cost import Cost, check_figures
from tierwise.planner._links import Sweep, log_grid, sweep
from tierwise.topology import Link

__all__ = ["Message", "Observed", "Way", "accurate_way", "crossovers", "fastest_way", "fit_message", "predict_way"]

# TCP and IP headers with timestamps leave 1448 of a full packet's 1500 bytes.
_PACKET_BYTES: Final = 1500
_PAYLOAD_BYTES: Final = 1448
# Mean window of a sender that loses one segment in 1 / p is sqrt(3 / 2p) (Mathis et al. 1997, "The macroscopic behavior
# of the TCP congestion avoidance algorithm", with an acknowledgement for every segment).
_MATHIS: Final = 1.5


@final
@dataclass(frozen=True)
class Message:
    """What a message costs beside what it holds: the fixed part of every request.

    Attributes:
        seconds: In the nodes, for each message: received, handed on, answered.
        bytes: On the link, for each message: headers of packets and of the protocol.
    """

    seconds: float = 0.0
    bytes: float = 0.0


@final
@dataclass(frozen=True)
class Way:
    """One way to an answer, as far as a prediction needs it.

    Attributes:
        name: What to call it.
        below_s: Work on the device for one request: head, encoder, coding.
        above_s: Work behind the link: decoding, decoder, tail.
        up_bytes: Of the message that crosses the link.
        down_bytes: Of the answer.
        crosses: Whether it crosses the link at all.
        accuracy_frac: Its accuracy; only the order matters.
    """

    name: str
    below_s: float
    above_s: float = 0.0
    up_bytes: int = 0
    down_bytes: int = 0
    crosses: bool = True
    accuracy_frac: float = 0.0


@final
@dataclass(frozen=True)
class Observed:
    """A measured latency of a way over a link, to fit what a message costs.

    Attributes:
        way: The way.
        link: The link.
        seconds: The usual latency (the median).
    """

    way: Way
    link: Link
    seconds: float


def predict_way(way: Way, link: Link, message: Message = Message()) -> Cost:
    """Predict the usual latency of one request on idle machines, one request after another.

    A message takes (bytes + fixed bytes) * 8 / rate and half a round trip. On a link that loses packets TCP's window is
    on average sqrt(1.5 / loss) segments: what is longer waits a round trip for each further window, as far as sending
    a window does not take that long. A request that itself loses a packet takes longer than predicted here; that is
    not the usual one as long as messages have fewer than 0.7 / loss packets.

    Args:
        way: The way.
        link: The link it may cross.
        message: What every message costs beside (`fit_message`).

    Raises:
        InputError: A figure is negative or not finite.
    """
    figures = (way.below_s, way.above_s, way.up_bytes, way.down_bytes, message.seconds, message.bytes)
    check_figures(figures, where=way.name)
    if not way.crosses:
        return Cost(way.below_s, 0.0, way.above_s, 0.0, 0, 0, message_s=message.seconds)
    return Cost(
        head_s=way.below_s,
        uplink_s=_crossing_s(way.up_bytes + message.bytes, link.up_bps, link),
        tail_s=way.above_s,
        downlink_s=_crossing_s(way.down_bytes + message.bytes, link.down_bps, link),
        up_bytes=way.up_bytes,
        down_bytes=way.down_bytes,
        message_s=2 * message.seconds,
    )


def _crossing_s(size_bytes: float, rate_bps: float, link: Link) -> float:
    return 8 * size_bytes / rate_bps + link.rtt_s / 2 + _waiting_s(size_bytes, rate_bps, link)


def _waiting_s(size_bytes: float, rate_bps: float, link: Link) -> float:
    """How long a sender waits for acknowledgements; a connection in use that loses nothing does not."""
    if link.loss_frac == 0:
        return 0.0
    window = math.sqrt(_MATHIS / link.loss_frac)
    further = math.ceil(size_bytes / _PAYLOAD_BYTES / window) - 1
    return max(0, further) * max(0.0, link.rtt_s - 8 * window * _PACKET_BYTES / rate_bps)


def fit_message(points: Sequence[Observed]) -> Message:
    """What a message costs, from measured latencies: least squares of their relative errors, nothing below 0.

    One rate tells the seconds; to tell the bytes too, there must be a slow one among them.

    Raises:
        InputError: No point, or a latency that is not positive.
    """
    wrong = [point.seconds for point in points if not 0 < point.seconds < math.inf]
    if not points or wrong:
        raise InputError(
            "a fit needs measured latencies above 0 and below infinity",
            got=wrong[0] if wrong else "no point",
            where="fit_message",
        )
    rows, left = [], []
    for point in points:
        crosses, weight = point.way.crosses, 1 / point.seconds
        per_byte_s = 8 / point.link.up_bps + 8 / point.link.down_bps if crosses else 0.0
        rows.append((weight * (1 + crosses), weight * per_byte_s))
        left.append(weight * (point.seconds - predict_way(point.way, point.link).total_s))
    table, rest = np.array(rows), np.array(left)
    best, least = Message(), float((rest**2).sum())
    # With two unknowns that must not be negative the best lies inside or on one of the two borders.
    for columns in ([0, 1], [0], [1]):
        found = np.zeros(2)
        found[columns] = np.linalg.lstsq(table[:, columns], rest, rcond=None)[0]
        error = float(((table @ found - rest) ** 2).sum())
        if (found >= 0).all() and error < least:
            best, least = Message(float(found[0]), float(found[1])), error
    return best


def fastest_way(ways: Sequence[Way], link: Link, message: Message = Message()) -> Way:
    """The way with the lowest predicted latency.

    Raises:
        InputError: There is none.
    """
    if not ways:
        raise InputError("there must be a way to choose", got="none", where="ways")
    return min(ways, key=lambda way: predict_way(way, link, message).total_s)


def accurate_way(ways: Sequence[Way], link: Link, deadline_s: float, message: Message = Message()) -> Way:
    """The most accurate way that is predicted to meet the deadline, of equals the faster; the fastest where none does.

    Raises:
        InputError: There is none.
    """
    fit = [way for way in ways if predict_way(way, link, message).total_s <= deadline_s]
    if not fit:
        return fastest_way(ways, link, message)
    return min(fit, key=lambda way: (-way.accuracy_frac, predict_way(way, link, message).total_s))


def crossovers(ways: Sequence[Way], link: Link, low_bps: float, high_bps: float, message: Message = Message()) -> Sweep:
    """Which way is fastest at which rate of the link; its way down keeps its proportion to the way up.

    Raises:
        InputError: No way, or a range of rates that is none.
    """
    if not ways or not 0 < low_bps < high_bps:
        raise InputError("crossovers need ways and 0 < low < high", got=f"{len(ways)} ways, {low_bps} to {high_bps}")

    def latencies(rate_bps: float) -> dict[str, float]:
        other = Link(
            lower=link.lower,
            upper=link.upper,
            up_bps=rate_bps,
            down_bps=link.down_bps * rate_bps / link.up_bps,
            rtt_s=link.rtt_s,
            loss_frac=link.loss_frac,
        )
        return {way.name: predict_way(way, other, message).total_s for way in ways}

    name = f"{link.lower} - {link.upper}"
    return sweep(
        "rate", "bit/s", name, link.up_bps, log_grid(low_bps, high_bps), latencies, lambda s: min(s, key=s.__getitem__)
    )
