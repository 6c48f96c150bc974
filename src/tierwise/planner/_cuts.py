"""Several cuts at once: the best place of every border between tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tierwise._errors import InputError
from tierwise.planner._cost import Candidate
from tierwise.topology import Link

__all__ = ["best_cuts"]

# What was reached so far: its cost, the bytes that cross borders, the cuts taken.
_Way = tuple[float, int, tuple[int, ...]]


def best_cuts(
    candidates: Sequence[Candidate],
    *,
    s_per_mac: Sequence[float],
    links: Sequence[Sequence[Link]],
    min_share_frac: float = 0.05,
) -> tuple[int, ...]:
    """The cuts between consecutive tiers with the lowest predicted latency, by dynamic programming.

    Costs are those of `predict_cut`; the answer's way back is the same for all choices and left out. One pass per
    border over all pairs of candidates.

    Args:
        candidates: Legal cuts in the order of the graph.
        s_per_mac: Seconds per multiply-accumulate of each tier, from the lowest up; one more than there are cuts.
        links: Between each tier and the next, the links on the way.
        min_share_frac: Smallest share of the arithmetic on every tier.

    Returns:
        Positions among the candidates, ascending; one for each pair of neighbouring tiers. Among equals those with
        the smaller transfers, then the later, as `best_cut` chooses.

    Raises:
        InputError: Figures that do not fit each other, or no choice leaves every tier that share.
    """
    tiers = len(s_per_mac)
    if tiers < 2 or len(links) != tiers - 1:
        raise InputError("there must be two tiers or more, with links between each two", got=f"{tiers}, {len(links)}")
    if not candidates:
        raise InputError("there must be a cut to choose", got="none", where="best_cuts")
    total = candidates[0].head_macs + candidates[0].tail_macs
    least = min_share_frac * total
    # After each border the best way there, by the candidate of that border.
    reached: dict[int, _Way] = {-1: (0.0, 0, ())}
    for tier, way in enumerate(links):
        reached = _across(candidates, reached, s_per_mac[tier], way, least)
    ends = [
        (cost + candidates[last].tail_macs * s_per_mac[-1], crossed, taken)
        for last, (cost, crossed, taken) in reached.items()
        if candidates[last].tail_macs >= least
    ]
    if not ends:
        raise InputError(
            f"some {tiers - 1} cuts must leave {100 * min_share_frac:g} % of the arithmetic on each tier",
            got=f"{len(candidates)} cuts, none of them so",
            where="best_cuts",
            fix="Lower min_share_frac, or use fewer tiers",
        )
    return min(ends, key=_rank)[2]


def _across(
    candidates: Sequence[Candidate], reached: Mapping[int, _Way], s_per_mac: float, links: Sequence[Link], least: float
) -> dict[int, _Way]:
    """The best way over one more border, by the candidate of that border."""
    following: dict[int, _Way] = {}
    for index, candidate in enumerate(candidates):
        crossing_s = sum(8 * candidate.bytes / link.up_bps + link.rtt_s / 2 for link in links)
        choices = [
            (
                cost + (candidate.head_macs - done) * s_per_mac + crossing_s,
                crossed + candidate.bytes,
                (*taken, index),
            )
            for last, (cost, crossed, taken) in reached.items()
            if index > last and candidate.head_macs - (done := _head_macs(candidates, last)) >= least
        ]
        if choices:
            following[index] = min(choices, key=_rank)
    return following


def _rank(way: _Way) -> tuple[float, int, tuple[int, ...]]:
    """What the best way has least of: among equals the smaller transfers, then the later cuts, as in `best_cut`."""
    cost, crossed, taken = way
    return cost, crossed, tuple(-one for one in taken)


def _head_macs(candidates: Sequence[Candidate], last: int) -> int:
    return 0 if last < 0 else candidates[last].head_macs
