from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from tierwise._errors import InputError
from tierwise.planner import best_cut, best_cuts
from tierwise.topology import Link

SLOW = Link(lower="mobile", upper="edge", up_bps=8e6, down_bps=16e6, rtt_s=0.02)
FAST = Link(lower="edge", upper="cloud", up_bps=8e9, down_bps=8e9, rtt_s=0.001)


@dataclass(frozen=True)
class Place:
    label: str
    bytes: int
    head_macs: int
    tail_macs: int


def places(seed):
    rng = np.random.default_rng(seed)
    heads = np.sort(rng.integers(1, 1000, 9)) * 1000
    return [Place(str(i), int(rng.integers(1, 20000)), int(h), int(10**6 - h)) for i, h in enumerate(heads)]


@pytest.mark.parametrize("seed", range(20))
def test_two_cuts_are_the_best_of_all_pairs(seed):
    candidates, speeds = places(seed), (4e-8, 2e-8, 5e-9)

    def cost(first, second):
        low, high = candidates[first], candidates[second]
        parts = (low.head_macs, high.head_macs - low.head_macs, high.tail_macs)
        crossing = 8 * low.bytes / SLOW.up_bps + 8 * high.bytes / FAST.up_bps
        return sum(macs * speed for macs, speed in zip(parts, speeds, strict=True)) + crossing

    found = best_cuts(candidates, s_per_mac=speeds, links=((SLOW,), (FAST,)), min_share_frac=0.0)
    best = min(cost(*pair) for pair in itertools.combinations(range(9), 2))
    assert cost(*found) == pytest.approx(best)


def test_one_cut_is_that_of_best_cut():
    candidates = places(3)
    one = best_cut(candidates, input_bytes=0, answer_bytes=0, lower_s_per_mac=4e-8, upper_s_per_mac=5e-9, links=(SLOW,))
    assert best_cuts(candidates, s_per_mac=(4e-8, 5e-9), links=((SLOW,),)) == (one.index,)


def test_among_equals_the_smaller_transfer_then_the_later_as_one_cut_chooses():
    """Behind an activation a tensor loses less where it is rounded than before it."""
    before, behind = Place("block/Add", 4000, 500_000, 500_000), Place("block/Relu", 4000, 500_000, 500_000)
    speeds = {"lower_s_per_mac": 4e-8, "upper_s_per_mac": 4e-8}
    one = best_cut([before, behind], input_bytes=0, answer_bytes=0, links=(SLOW,), **speeds)
    assert best_cuts([before, behind], s_per_mac=(4e-8, 4e-8), links=((SLOW,),)) == (one.index,) == (1,)
    last = Place("last", 10, 900_000, 100_000)
    assert best_cuts([before, behind, last], s_per_mac=(4e-8,) * 3, links=((SLOW,), (FAST,))) == (1, 2)
    # Where only what crosses differs and the way costs nothing by the figures, less crosses.
    free = Link(lower="a", upper="b", up_bps=1e300, down_bps=1e300, rtt_s=0.0)
    small = Place("small", 10, 500_000, 500_000)
    assert best_cuts([small, behind], s_per_mac=(4e-8, 4e-8), links=((free,),)) == (0,)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="two tiers or more"):
        best_cuts(places(0), s_per_mac=(1e-9,), links=())
    with pytest.raises(InputError, match="there must be a cut to choose, but got none"):
        best_cuts([], s_per_mac=(1e-9, 1e-9), links=((FAST,),))
    with pytest.raises(InputError, match=r"2 cuts must leave 40 % of the arithmetic on each tier"):
        best_cuts(places(0), s_per_mac=(1e-9,) * 3, links=((SLOW,), (FAST,)), min_share_frac=0.4)
