from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise._errors import InputError
from tierwise.planner import Part, best_cut, predict_cut, predict_parts
from tierwise.topology import Link

SLOW = Link(lower="mobile", upper="edge", up_bps=8e6, down_bps=16e6, rtt_s=0.02)
FAST = Link(lower="edge", upper="cloud", up_bps=8e9, down_bps=8e9, rtt_s=0.001)


@dataclass(frozen=True)
class Place:
    label: str
    bytes: int
    head_macs: int
    tail_macs: int


PLACES = (
    Place("rim", 10, 0, 1000),
    Place("early", 8000, 100, 900),
    Place("middle", 2000, 500, 500),
    Place("late", 500, 900, 100),
    Place("end", 10, 1000, 0),
)
REST = {"input_bytes": 4000, "answer_bytes": 40, "links": (SLOW,)}


def test_parts_by_hand():
    cost = predict_cut(
        head_macs=10**6,
        tail_macs=10**7,
        boundary_bytes=10_000,
        input_bytes=1_000,
        answer_bytes=200,
        lower_s_per_mac=1e-9,
        upper_s_per_mac=1e-10,
        links=(FAST,),
        links_below=(SLOW,),
    )
    assert cost.head_s == pytest.approx(1e-3)
    assert cost.tail_s == pytest.approx(1e-3)
    assert cost.uplink_s == pytest.approx(1_000 * 8 / 8e6 + 0.01 + 10_000 * 8 / 8e9 + 0.0005)
    assert cost.downlink_s == pytest.approx(200 * 8 / 16e6 + 0.01 + 200 * 8 / 8e9 + 0.0005)
    assert cost.total_s == pytest.approx(cost.head_s + cost.uplink_s + cost.tail_s + cost.downlink_s)
    assert (cost.up_bytes, cost.down_bytes) == (11_000, 400)


def test_a_fast_device_keeps_more():
    slow = best_cut(PLACES, lower_s_per_mac=1e-4, upper_s_per_mac=1e-6, **REST)
    fast = best_cut(PLACES, lower_s_per_mac=1e-7, upper_s_per_mac=1e-6, **REST)
    assert (PLACES[slow.index].label, PLACES[fast.index].label) == ("early", "late")


def test_cuts_at_the_rim_are_ranked_but_never_chosen():
    choice = best_cut(PLACES, lower_s_per_mac=1e-9, upper_s_per_mac=1e-9, **REST)
    assert [PLACES[entry.index].label for entry in choice.ranking] == ["late", "middle", "early", "end", "rim"]
    reasons = choice.reasons(5)
    assert reasons[0].startswith("1. late: ")
    assert reasons[4].endswith("excluded: 0.0 % of the arithmetic before the cut is less than 5 %")


def test_among_equals_the_tensor_behind_the_activation():
    pair = (Place("block/Add", 100, 5, 5), Place("block/Relu", 100, 5, 5))
    assert best_cut(pair, lower_s_per_mac=1e-9, upper_s_per_mac=1e-9, **REST).index == 1


def test_no_cut_with_a_share_on_both_sides():
    with pytest.raises(InputError, match=r"must leave 5 % .* but got 2 cuts, the fastest: 0\.0 % .* Lower min_share"):
        best_cut((PLACES[0], PLACES[4]), lower_s_per_mac=1e-9, upper_s_per_mac=1e-9, **REST)


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=1, max_size=12), st.floats(1e-9, 1e-3))
def test_the_choice_is_the_cheapest_allowed(rows, speed):
    places = [Place(str(i), *row) for i, row in enumerate(rows)]
    allowed = [
        p for p in places if p.head_macs + p.tail_macs and 0.05 <= p.head_macs / (p.head_macs + p.tail_macs) <= 0.95
    ]
    if not allowed:
        return
    choice = best_cut(places, lower_s_per_mac=speed, upper_s_per_mac=1e-6, **REST)
    best = min(p.head_macs * speed + p.tail_macs * 1e-6 + p.bytes * 8 / SLOW.up_bps + SLOW.rtt_s / 2 for p in allowed)
    assert choice.cost.total_s - choice.cost.downlink_s == pytest.approx(best)


def test_three_parts_exits_and_messages_by_hand():
    parts = (
        Part(macs=10**6, s_per_mac=1e-9, received_bytes=1_000),
        Part(macs=10**7, s_per_mac=1e-10, received_bytes=10_000, links=(SLOW,), reach_frac=0.5),
        Part(macs=10**8, s_per_mac=1e-11, received_bytes=2_000, links=(FAST,), reach_frac=0.25),
    )
    cost = predict_parts(parts, answer_bytes=200, per_message_s=1e-3)
    assert cost.head_s == pytest.approx(1e-3)
    assert cost.middle_s == pytest.approx(0.5e-3)
    assert cost.tail_s == pytest.approx(0.25e-3)
    assert cost.uplink_s == pytest.approx(0.5 * (10_000 * 8 / 8e6 + 0.01) + 0.25 * (2_000 * 8 / 8e9 + 0.0005))
    assert cost.downlink_s == pytest.approx(0.5 * (200 * 8 / 16e6 + 0.01) + 0.25 * (200 * 8 / 8e9 + 0.0005))
    assert cost.message_s == pytest.approx(1.75e-3)
    assert (cost.up_bytes, cost.down_bytes) == (5_500, 150)
    whole = predict_parts(parts[:1], answer_bytes=200)
    assert (whole.total_s, whole.tail_s) == (pytest.approx(1e-3), 0.0)
    with pytest.raises(InputError, match="finite and not negative"):
        predict_parts(parts, answer_bytes=-1)
