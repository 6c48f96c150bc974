"""Predicted costs. What is predicted is a `Cost`; what is measured is a record, and neither is ever the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from tierwise._errors import InputError
from tierwise.topology import Link

__all__ = [
    "Candidate",
    "Choice",
    "Cost",
    "Part",
    "Ranked",
    "best_cut",
    "check_figures",
    "predict_cut",
    "predict_parts",
]


def check_figures(figures: Sequence[float], where: str) -> None:
    """Whether a prediction can be made of such figures.

    Raises:
        InputError: One of them is negative or not finite.
    """
    for figure in figures:
        if not 0 <= figure < math.inf:
            raise InputError("every figure of a prediction must be finite and not negative", got=figure, where=where)


@final
@dataclass(frozen=True)
class Cost:
    """What one request is predicted to take, part by part. A model's figure, never a measurement.

    Attributes:
        head_s: Compute on the lowest tier that computes.
        uplink_s: What crosses upwards, over all links on the way.
        tail_s: Compute on the highest one, where it is another.
        downlink_s: The answer on its way back.
        up_bytes: Bytes sent upwards, summed over links.
        down_bytes: Bytes sent downwards, summed over links.
        middle_s: Compute on the tiers between.
        message_s: What nodes take for each message beside computing and sending: the request's to the device's own node
            and one for each link.
    """

    head_s: float
    uplink_s: float
    tail_s: float
    downlink_s: float
    up_bytes: int
    down_bytes: int
    middle_s: float = 0.0
    message_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Latency of one request on idle tiers and links."""
        return self.head_s + self.uplink_s + self.middle_s + self.tail_s + self.downlink_s + self.message_s


@final
@dataclass(frozen=True)
class Part:
    """One segment of a model on its tier, as far as a prediction needs it.

    Attributes:
        macs: Multiply-accumulates of one item.
        s_per_mac: Seconds for each on that tier.
        received_bytes: What comes to it, of one item.
        links: What that comes over, from the tier of the part before, or from the device to the first part's.
        reach_frac: Share of the items that come so far; the others left at an exit before.
    """

    macs: int
    s_per_mac: float
    received_bytes: int
    links: Sequence[Link] = ()
    reach_frac: float = 1.0


def predict_parts(parts: Sequence[Part], *, answer_bytes: int, per_message_s: float = 0.0) -> Cost:
    """Predict one request through a model in parts; with exits, the expectation over items.

    A transfer takes bytes * 8 / rate plus half the round trip, on each link in turn (a tier passes a message on when it
    has all of it). Jitter, loss, queueing and the encoding of large messages are not modelled.

    Args:
        parts: From the lowest to the highest.
        answer_bytes: What comes back over every link that was climbed.
        per_message_s: What a node takes for a message of its own: receiving, handing on, answering.

    Raises:
        InputError: No part, or a figure that is negative or not finite.
    """
    figures = [answer_bytes, per_message_s]
    for part in parts:
        figures += (part.macs, part.s_per_mac, part.received_bytes, part.reach_frac)
    if not parts:
        raise InputError("a prediction needs at least one part", where="cost")
    check_figures(figures, where="cost")
    computing = [part.reach_frac * part.macs * part.s_per_mac for part in parts]
    climbs = [(part.reach_frac, part.received_bytes, link) for part in parts for link in part.links]
    return Cost(
        head_s=computing[0],
        uplink_s=sum(share * (8 * size / link.up_bps + link.rtt_s / 2) for share, size, link in climbs),
        middle_s=sum(computing[1:-1]),
        tail_s=computing[-1] if len(parts) > 1 else 0.0,
        downlink_s=sum(share * (8 * answer_bytes / link.down_bps + link.rtt_s / 2) for share, _, link in climbs),
        up_bytes=round(sum(share * size for share, size, _ in climbs)),
        down_bytes=round(sum(share * answer_bytes for share, _, _ in climbs)),
        message_s=per_message_s * (1 + sum(share for share, _, _ in climbs)),
    )


class Candidate(Protocol):
    """A place to cut at; `tierwise.capture.Cut` is one."""

    @property
    def label(self) -> str:
        """What to call it."""
        ...

    @property
    def bytes(self) -> int:
        """What crosses there, of one item."""
        ...

    @property
    def head_macs(self) -> int:
        """Multiply-accumulates before it."""
        ...

    @property
    def tail_macs(self) -> int:
        """Multiply-accumulates after it."""
        ...


def predict_cut(
    *,
    head_macs: int,
    tail_macs: int,
    boundary_bytes: int,
    input_bytes: int,
    answer_bytes: int,
    lower_s_per_mac: float,
    upper_s_per_mac: float,
    links: Sequence[Link],
    links_below: Sequence[Link] = (),
    per_message_s: float = 0.0,
) -> Cost:
    """Predict one request through a model that is cut in two, see `predict_parts`.

    Args:
        head_macs: Multiply-accumulates on the lower tier.
        tail_macs: Multiply-accumulates on the upper tier.
        boundary_bytes: What crosses from the lower to the upper tier.
        input_bytes: What crosses ``links_below``: the request as the device holds it.
        answer_bytes: What comes back over all links.
        lower_s_per_mac: Seconds per multiply-accumulate on the lower tier.
        upper_s_per_mac: Seconds per multiply-accumulate on the upper tier.
        links: From the lower tier up to the upper one.
        links_below: From the device up to the lower tier; none where the device is the lower tier.
        per_message_s: See `predict_parts`.

    Raises:
        InputError: A negative figure.
    """
    parts = (
        Part(head_macs, lower_s_per_mac, input_bytes, links_below),
        Part(tail_macs, upper_s_per_mac, boundary_bytes, links),
    )
    return predict_parts(parts, answer_bytes=answer_bytes, per_message_s=per_message_s)


@final
@dataclass(frozen=True)
class Ranked:
    """One candidate in a ranking.

    Attributes:
        index: Its position among the candidates given.
        label: What it is called.
        cost: Its predicted cost.
        excluded: Why it may not be chosen; empty where it may.
    """

    index: int
    label: str
    cost: Cost
    excluded: str = ""


@final
@dataclass(frozen=True)
class Choice:
    """A choice with its reasons.

    Attributes:
        index: Position of the chosen candidate.
        ranking: All candidates, the eligible ones first, each group by predicted latency.
    """

    index: int
    ranking: tuple[Ranked, ...]

    @property
    def cost(self) -> Cost:
        """Predicted cost of the chosen one."""
        return self.ranking[0].cost

    def reasons(self, count: int = 3) -> tuple[str, ...]:
        """The first ``count`` places of the ranking as sentences."""
        return tuple(
            f"{place}. {entry.label}: {1e3 * entry.cost.total_s:.3g} ms predicted (head {1e3 * entry.cost.head_s:.3g}, "
            f"up {1e3 * entry.cost.uplink_s:.3g}, tail {1e3 * entry.cost.tail_s:.3g}, "
            f"down {1e3 * entry.cost.downlink_s:.3g}, messages {1e3 * entry.cost.message_s:.3g})"
            + (f"; excluded: {entry.excluded}" if entry.excluded else "")
            for place, entry in enumerate(self.ranking[:count], start=1)
        )


def best_cut(
    candidates: Sequence[Candidate],
    *,
    input_bytes: int,
    answer_bytes: int,
    lower_s_per_mac: float,
    upper_s_per_mac: float,
    links: Sequence[Link],
    links_below: Sequence[Link] = (),
    per_message_s: float = 0.0,
    min_share_frac: float = 0.05,
) -> Choice:
    """The candidate with the lowest predicted latency among those that leave both sides something to do.

    Args:
        candidates: Legal cuts.
        input_bytes: See `predict_cut`, as for the arguments after it.
        answer_bytes: See `predict_cut`.
        lower_s_per_mac: See `predict_cut`.
        upper_s_per_mac: See `predict_cut`.
        links: See `predict_cut`.
        links_below: See `predict_cut`.
        per_message_s: See `predict_cut`; the same for every candidate, it is there for the figures.
        min_share_frac: Smallest share of the arithmetic on either side; a cut at the very rim is no partition.

    Raises:
        InputError: No candidate, or none that leaves both sides that share.
    """
    if not 0 <= min_share_frac < 0.5:
        raise InputError("min_share_frac must lie in [0, 0.5)", got=min_share_frac, where="best_cut")
    ranking = []
    for index, candidate in enumerate(candidates):
        cost = predict_cut(
            head_macs=candidate.head_macs,
            tail_macs=candidate.tail_macs,
            boundary_bytes=candidate.bytes,
            input_bytes=input_bytes,
            answer_bytes=answer_bytes,
            lower_s_per_mac=lower_s_per_mac,
            upper_s_per_mac=upper_s_per_mac,
            links=links,
            links_below=links_below,
            per_message_s=per_message_s,
        )
        ranking.append(Ranked(index, candidate.label, cost, _excluded(candidate, min_share_frac)))
    # Among equals the smaller transfer, then the later: behind an activation or a normalisation the tensor has a
    # narrower range than before it, and loses less where it is rounded to cross.
    ranking.sort(key=lambda entry: (bool(entry.excluded), entry.cost.total_s, entry.cost.up_bytes, -entry.index))
    if not ranking or ranking[0].excluded:
        raise InputError(
            f"one cut at least must leave {100 * min_share_frac:g} % of the arithmetic on each side",
            got=f"{len(ranking)} cuts" + (f", the fastest: {ranking[0].excluded}" if ranking else ""),
            where="best_cut",
            fix="Lower min_share_frac, or name the cut",
        )
    return Choice(index=ranking[0].index, ranking=tuple(ranking))


def _excluded(candidate: Candidate, share: float) -> str:
    total = candidate.head_macs + candidate.tail_macs
    head = candidate.head_macs / total if total else 0.0
    if head < share:
        return f"{100 * head:.1f} % of the arithmetic before the cut is less than {100 * share:g} %"
    if 1 - head < share:
        return f"{100 * (1 - head):.1f} % of the arithmetic after the cut is less than {100 * share:g} %"
    return ""
