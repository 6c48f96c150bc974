import pytest

from tierwise.runtime import Breaker, BreakerSpec
from tierwise.testing import FakeClock

SPEC = BreakerSpec(failures=3, first_wait_s=1.0, growth=2.0, longest_wait_s=5.0, jitter_frac=0.2)


def opened(draw: float = 0.5) -> tuple[Breaker, FakeClock]:
    breaker, clock = Breaker(SPEC, lambda: draw), FakeClock()
    for _ in range(3):
        breaker.failed(clock.now_ns())
    assert breaker.state == "open"
    return breaker, clock


def test_failures_in_a_row_open_it_and_others_do_not() -> None:
    breaker, clock = Breaker(SPEC, lambda: 0.5), FakeClock()
    for _ in range(5):
        breaker.failed(clock.now_ns())
        breaker.failed(clock.now_ns())
        breaker.succeeded()
    assert breaker.state == "closed"
    assert not breaker.begin_trial(clock.now_ns())


def wait_s(breaker: Breaker, clock: FakeClock) -> float:
    begun_ns = clock.now_ns()
    while not breaker.begin_trial(clock.now_ns()):
        clock.sleep(0.01)
    return (clock.now_ns() - begun_ns) / 1e9


def test_one_trial_after_a_wait_that_doubles_up_to_a_bound() -> None:
    breaker, clock = opened()
    for expected_s in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert wait_s(breaker, clock) == pytest.approx(expected_s, abs=0.011)
        assert breaker.state == "half-open"
        assert not breaker.begin_trial(clock.now_ns())
        breaker.failed(clock.now_ns(), trial=True)
        assert breaker.state == "open"
    assert breaker.opened == 6


@pytest.mark.parametrize(("draw", "expected_s"), [(0.0, 0.8), (1.0, 1.2)])
def test_jitter_moves_the_wait_either_way(draw: float, expected_s: float) -> None:
    assert wait_s(*opened(draw)) == pytest.approx(expected_s, abs=0.011)


def test_only_the_trial_closes_it() -> None:
    breaker, clock = opened()
    breaker.succeeded()  # a request that began before
    assert breaker.state == "open"
    wait_s(breaker, clock)
    breaker.failed(clock.now_ns())  # likewise
    breaker.succeeded()
    assert breaker.state == "half-open"
    breaker.succeeded(trial=True)
    assert breaker.state == "closed"


def test_a_path_that_breaks_again_at_once_waits_longer_and_one_that_held_does_not() -> None:
    breaker, clock = opened()
    wait_s(breaker, clock)
    breaker.succeeded(trial=True)
    for _ in range(3):
        breaker.failed(clock.now_ns())
    assert wait_s(breaker, clock) == pytest.approx(2.0, abs=0.011)
    breaker.succeeded(trial=True)
    for _ in range(3):
        breaker.succeeded()
    for _ in range(3):
        breaker.failed(clock.now_ns())
    assert wait_s(breaker, clock) == pytest.approx(1.0, abs=0.011)
