"""The arithmetic of one direction of a link, without any time passing."""

import math
import statistics
from itertools import pairwise

import pytest

from tierwise.testbed._lane import MTU_BYTES, QUEUE_PACKETS, Lane, Lateness, Shape
from tierwise.testbed._proxy import stall_s

MS = 1e-3


def test_a_lone_packet_takes_its_time_on_the_wire_and_the_delay() -> None:
    lane = Lane(Shape(rate_bps=12e6, delay_s=10 * MS), seed=1)
    assert lane.enter(5.0, 1500) == pytest.approx(5.0 + 1 * MS + 10 * MS)


def test_packets_leave_at_the_rate() -> None:
    lane = Lane(Shape(rate_bps=12e6, delay_s=10 * MS), seed=1)
    outs = [lane.enter(0.0, 1500) for _ in range(100)]
    assert outs == pytest.approx([(index + 1) * MS + 10 * MS for index in range(100)])
    assert lane.backlog_s(0.0) == pytest.approx(100 * MS)
    assert lane.backlog_s(1.0) == 0.0


def test_an_idle_wire_owes_nothing() -> None:
    lane = Lane(Shape(rate_bps=12e6), seed=1)
    lane.enter(0.0, 1500)
    assert lane.enter(10.0, 1500) == pytest.approx(10.0 + 1 * MS)


def test_a_full_queue_drops_what_comes() -> None:
    lane = Lane(Shape(rate_bps=12e6), seed=1)
    outs = [lane.enter(0.0, MTU_BYTES) for _ in range(QUEUE_PACKETS + 50)]
    taken = sum(out is not None for out in outs)
    assert abs(taken - QUEUE_PACKETS) <= 1  # one may be on the wire already
    assert lane.enter(5 * MS, MTU_BYTES) is not None


def test_loss_is_the_share_asked_for_and_takes_no_time_on_the_wire() -> None:
    lane = Lane(Shape(rate_bps=12e9, loss_frac=0.05), seed=1)
    outs = [lane.enter(0.0, 150) for _ in range(9_000)]
    lost = sum(out is None for out in outs)
    assert abs(lost - 450) < 4 * math.sqrt(450)
    assert lane.backlog_s(0.0) == pytest.approx((9_000 - lost) * 150 * 8 / 12e9)


def test_jitter_has_its_spread_and_never_reorders() -> None:
    lane = Lane(Shape(rate_bps=12e9, delay_s=50 * MS, jitter_s=5 * MS), seed=1)
    apart = [out - now for now in range(2_000) if (out := lane.enter(now, 100)) is not None]
    assert statistics.mean(apart) == pytest.approx(50 * MS, rel=0.02)
    assert statistics.stdev(apart) == pytest.approx(5 * MS, rel=0.1)
    close = [lane.enter(3_000 + index * 0.1 * MS, 100) for index in range(2_000)]
    assert all(later >= earlier for earlier, later in pairwise(out for out in close if out is not None))


def test_the_same_seed_loses_the_same_packets() -> None:
    first, second = (Lane(Shape(rate_bps=1e9, loss_frac=0.3), seed=7) for _ in range(2))
    assert [first.enter(i, 100) for i in range(100)] == [second.enter(i, 100) for i in range(100)]


def test_lateness_is_learnt_within_bounds() -> None:
    lateness = Lateness()
    for _ in range(100):
        lateness.learn(60e-6, 90e-6)
    assert (lateness.notice_s, lateness.release_s) == (60e-6, 90e-6)
    for _ in range(100):
        lateness.learn(5.0, 5.0)
    assert max(lateness.notice_s, lateness.release_s) <= 1e-3
    for _ in range(100):
        lateness.learn(-1.0, 1e-6)
    assert (lateness.notice_s, lateness.release_s) == (0.0, 1e-6)


def test_a_machine_held_up_now_and_then_is_not_usually_late() -> None:
    lateness = Lateness()
    for index in range(100):
        lateness.learn(5e-3 if index % 3 == 0 else 60e-6, 5e-3 if index % 3 == 0 else 90e-6)
    assert (lateness.notice_s, lateness.release_s) == (60e-6, 90e-6)


@pytest.mark.parametrize(
    ("draws", "followed", "last", "alone", "stall"),
    [
        ([0.5, 0.7], 9, True, False, 0.0),  # nothing lost
        ([0.05], 9, True, False, 0.08),  # the last one: a probe after two round trips
        ([0.05], 0, True, True, 0.28),  # the only one: the smallest timeout besides
        ([0.5, 0.2], 9, True, False, 0.04),  # one with others behind it: a round trip
        ([0.05], 1, False, False, 0.04),
        ([0.5], 0, True, True, 0.0),
    ],
)
def test_a_lost_segment_is_a_stall_of_the_stream(
    draws: list[float], followed: int, last: bool, alone: bool, stall: float
) -> None:
    drawn = iter(draws)
    assert stall_s(drawn.__next__, 0.1, 0.04, followed=followed, last=last, alone=alone) == pytest.approx(stall)
    assert list(drawn) == []


def test_without_loss_nothing_is_drawn() -> None:
    assert stall_s(iter(()).__next__, 0.0, 0.04, followed=9, last=True, alone=False) == 0.0
