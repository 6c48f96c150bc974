from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tierwise._errors import InputError
from tierwise.planner import (
    Message,
    Observed,
    Way,
    accurate_way,
    crossovers,
    fastest_way,
    fit_message,
    predict_parts,
    predict_way,
)
from tierwise.topology import Link

LOCAL = Way("local", 0.09, crosses=False, accuracy_frac=0.9)
SPLIT = Way("split", 0.01, 0.005, up_bytes=500, down_bytes=400, accuracy_frac=0.8)
RAW = Way("raw", 0.0, 0.009, up_bytes=12_500, down_bytes=400, accuracy_frac=0.9)
WAYS = (LOCAL, SPLIT, RAW)


def link(rate_bps: float, rtt_s: float = 0.01, loss_frac: float = 0.0) -> Link:
    return Link(lower="a", upper="b", up_bps=rate_bps, down_bps=rate_bps, rtt_s=rtt_s, loss_frac=loss_frac)


def test_a_way_by_hand() -> None:
    cost = predict_way(SPLIT, link(1e6), Message(0.001, 100))
    assert cost.uplink_s == pytest.approx(8 * 600 / 1e6 + 0.005)
    assert cost.downlink_s == pytest.approx(8 * 500 / 1e6 + 0.005)
    assert cost.message_s == 0.002
    assert cost.total_s == pytest.approx(0.01 + 0.005 + 8 * 1100 / 1e6 + 0.01 + 0.002)
    assert predict_way(LOCAL, link(1e6), Message(0.001, 100)).total_s == pytest.approx(0.091)


def test_loss_costs_what_is_longer_than_a_window() -> None:
    lossy = link(100e6, 0.1, 0.01)
    assert predict_way(SPLIT, lossy).total_s == predict_way(SPLIT, link(100e6, 0.1)).total_s
    long = Way("long", 0.0, up_bytes=100_000)
    window = math.sqrt(150)
    waits_s = (math.ceil(100_000 / 1448 / window) - 1) * (0.1 - 8 * 1500 * window / 100e6)
    assert predict_way(long, lossy).total_s - predict_way(long, link(100e6, 0.1)).total_s == pytest.approx(waits_s)
    slow = link(0.1e6, 0.1, 0.01)
    assert predict_way(long, slow).total_s == predict_way(long, link(0.1e6, 0.1)).total_s, "the rate keeps it waiting"


def test_the_cost_of_a_message_is_found_in_measured_latencies() -> None:
    true = Message(0.0013, 180.0)
    points = [
        Observed(way, one, predict_way(way, one, true).total_s) for way in WAYS for one in (link(0.1e6), link(50e6))
    ]
    found = fit_message(points)
    assert found.seconds == pytest.approx(true.seconds)
    assert found.bytes == pytest.approx(true.bytes)


def test_a_message_never_costs_less_than_nothing() -> None:
    quick = [Observed(SPLIT, link(rate), 0.9 * predict_way(SPLIT, link(rate)).total_s) for rate in (0.1e6, 50e6)]
    assert fit_message(quick) == Message()
    # Seconds that came out below 0 leave the bytes what they are without them.
    part = [Observed(SPLIT, link(0.05e6), predict_way(SPLIT, link(0.05e6), Message(0, 200)).total_s)]
    part.append(Observed(SPLIT, link(50e6), 0.95 * predict_way(SPLIT, link(50e6)).total_s))
    found = fit_message(part)
    assert found.seconds == 0
    assert 150 < found.bytes < 200


def test_the_best_way_follows_the_rate() -> None:
    assert [fastest_way(WAYS, link(rate)).name for rate in (0.05e6, 1e6, 200e6)] == ["local", "split", "raw"]
    found = crossovers(WAYS, link(1e6), 0.05e6, 200e6)
    assert [region.winner for region in found.regions] == ["local", "split", "raw"]
    for region in found.regions[:-1]:
        below, above = (fastest_way(WAYS, link(region.high * factor)).name for factor in (0.999, 1.001))
        assert below != above


def test_with_a_deadline_the_most_accurate_that_meets_it() -> None:
    assert accurate_way(WAYS, link(10e6), 0.05).name == "raw"
    assert accurate_way(WAYS, link(1e6), 0.05).name == "split"
    assert accurate_way(WAYS, link(1e6), 0.1).name == "local", "as accurate as raw, and faster"
    assert accurate_way(WAYS, link(10e6, 0.2), 0.05).name == "local", "none meets it: the fastest"


@pytest.mark.parametrize("bad", [Way("w", -1.0), Way("w", math.nan), Way("w", 0.0, up_bytes=-1)])
def test_nonsense_is_refused(bad: Way) -> None:
    with pytest.raises(InputError, match="finite and not negative"):
        predict_way(bad, link(1e6))


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(InputError, match="must be a way"):
        fastest_way((), link(1e6))
    with pytest.raises(InputError, match="crossovers need ways"):
        crossovers(WAYS, link(1e6), 2e6, 1e6)
    with pytest.raises(InputError, match="latencies above 0"):
        fit_message(())
    for wrong in (float("inf"), float("nan"), 0.0):
        with pytest.raises(InputError, match=f"above 0 and below infinity, but got {wrong}"):
            fit_message([Observed(SPLIT, link(1e6), 0.05), Observed(SPLIT, link(1e6), wrong)])


def test_the_figure_that_is_wrong_is_named() -> None:
    with pytest.raises(InputError, match=r"split: every figure .* but got inf"):
        predict_way(replace(SPLIT, below_s=float("inf")), link(1e6))
    with pytest.raises(InputError, match="at least one part"):
        predict_parts((), answer_bytes=0, per_message_s=0)
