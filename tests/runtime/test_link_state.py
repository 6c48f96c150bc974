import math

import pytest

from tierwise.measure import Reply, StageTime
from tierwise.runtime import LinkState
from tierwise.runtime._ewma import Ewma
from tierwise.runtime._forecast import Forecast

S = 1_000_000_000


def crossing(rtt_s: float, up_bps: float, bytes_up: int, bytes_down: int) -> float:
    return rtt_s + 8 * (bytes_up + bytes_down) / up_bps


def test_a_mean_follows_and_an_old_past_weighs_less() -> None:
    quick, rested = Ewma(weight=0.25, stale_s=10), Ewma(weight=0.25, stale_s=10)
    for mean in (quick, rested):
        mean.observe(1.0, 0)
        assert (mean.mean, mean.deviation) == (1.0, 0.5)
    quick.observe(2.0, 0)
    rested.observe(2.0, 30 * S)
    assert quick.mean == 1.25
    assert rested.mean == pytest.approx(2.0 - math.exp(-3))


def test_small_messages_teach_the_round_trip_and_large_ones_the_rate() -> None:
    link = LinkState()
    assert link.seconds(1000, 10) is None
    for i in range(40):
        size = 100 if i % 2 else 100_000
        link.observe(size, 100, crossing(0.02, 20e6, size, 100), i * S)
    facts = link.facts
    assert facts.rtt_s == pytest.approx(0.02, rel=0.05)
    assert facts.up_bps == pytest.approx(20e6, rel=0.05)
    assert link.seconds(50_000, 100) == pytest.approx(crossing(0.02, 20e6, 50_000, 100), rel=0.05)


def test_each_direction_has_its_rate() -> None:
    link = LinkState()
    for i in range(60):
        up, down = [(100_000, 100), (100, 100_000), (100, 100)][i % 3]
        link.observe(up, down, 0.01 + 8 * up / 10e6 + 8 * down / 50e6, i * S)
    assert link.facts.up_bps == pytest.approx(10e6, rel=0.05)
    assert link.facts.down_bps == pytest.approx(50e6, rel=0.1)


def test_a_slower_link_is_noticed_by_requests_of_one_size_alone() -> None:
    link = LinkState()
    for i in range(10):
        link.observe(50_000, 100, crossing(0.005, 50e6, 50_000, 100), i * S)
    for i in range(10, 40):
        link.observe(50_000, 100, crossing(0.005, 2e6, 50_000, 100), i * S)
    assert link.seconds(50_000, 100) == pytest.approx(crossing(0.005, 2e6, 50_000, 100), rel=0.05)
    link.forget()
    assert link.seconds(50_000, 100) is None


def test_a_round_trip_that_was_made_in_less_is_no_longer() -> None:
    link = LinkState()
    link.observe(100, 100, 0.2, 0)
    for i in range(1, 20):
        link.observe(50_000, 100, 0.05, i * S)
    assert link.facts.rtt_s is not None
    assert link.facts.rtt_s < 0.06


def test_a_step_is_believed_at_its_second_exchange() -> None:
    link = LinkState()
    for i in range(20):
        link.observe(100, 100, crossing(0.01, 20e6, 100, 100), i * S)
        link.observe(50_000, 100, crossing(0.01, 20e6, 50_000, 100), i * S)
    assert link.steps == 0
    for rate_bps, steps in ((1e6, 1), (20e6, 2)):
        for _ in range(2):
            link.observe(50_000, 100, crossing(0.01, rate_bps, 50_000, 100), 20 * S)
        assert link.steps == steps
        assert link.facts.up_bps == pytest.approx(rate_bps, rel=0.1)
        assert link.seconds(10_000, 100) == pytest.approx(crossing(0.01, rate_bps, 10_000, 100), rel=0.1)


def test_one_late_exchange_is_no_step_and_soon_forgotten() -> None:
    link, usual_s = LinkState(), crossing(0.01, 20e6, 50_000, 100)
    for i in range(40):
        link.observe(50_000, 100, usual_s + (0.2 if i == 20 else 0.0), i * S)
        if i == 20:
            assert link.steps == 0
        if i == 22:
            assert link.seconds(50_000, 100) == pytest.approx(usual_s, rel=0.2)


def test_small_messages_teach_the_rate_of_a_link_that_carries_them_slowly() -> None:
    link = LinkState()
    for i in range(40):
        for size in (100, 1500, 600):
            link.observe(size, 300, crossing(0.005, 0.1e6, size, 300), i * S)
    for size in (100, 600, 1500, 4000):
        assert link.seconds(size, 300) == pytest.approx(crossing(0.005, 0.1e6, size, 300), rel=0.15)


def test_a_path_is_forecast_from_its_bytes_before_it_answered() -> None:
    link = LinkState()
    unknown, told = Forecast(link), Forecast(link, request_bytes=10_000)
    assert told.expected_s is None
    link.observe(100, 100, 0.01, 0)
    link.observe(50_000, 100, crossing(0.01, 2e6, 50_000, 100), 0)
    assert unknown.expected_s is None
    assert told.expected_s == link.seconds(10_000, 0)


def reply(compute_s: float, link_s: float, size: int) -> Reply:
    stages = (StageTime("edge", "infer", compute_s), StageTime("mobile", "uplink", link_s))
    return Reply({}, stages, size, 0, ("mobile", "edge"))


def test_a_forecast_is_computing_and_the_link_as_other_paths_saw_it() -> None:
    link = LinkState()
    here, there = Forecast(None), Forecast(link)
    assert here.expected_s is here.careful_s is here.p95_s is None
    for i in range(30):
        here.observe(reply(0.03, 0.0, 0), 0.03, i * S)
        there.observe(reply(0.01, 0.04, 50_000), 0.05, i * S)
    assert here.expected_s == pytest.approx(0.03)
    assert there.expected_s == pytest.approx(0.05)
    assert there.p95_s == pytest.approx(0.05)
    for i in range(30, 60):  # another path of the same link, ten times the time for as many bytes
        link.observe(50_000, 0, 0.4, i * S)
    assert there.expected_s == pytest.approx(0.41, rel=0.02)
    assert there.careful_s is not None
    assert there.careful_s > there.expected_s


def test_what_left_at_an_exit_says_nothing_about_the_link() -> None:
    link = LinkState()
    Forecast(link).observe(Reply({}, (StageTime("mobile", "head", 0.01),), 0, 0, ("mobile",)), 0.01, 0)
    assert link.seconds(1, 1) is None
