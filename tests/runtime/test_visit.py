import time

import pytest

from tierwise.runtime._line import Line
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._visit import Timeline, Visit


class StillClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.ns = 0

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        # As real ones do, this sleep lasts longer than asked.
        self.ns += round(seconds * 1e9) + 60_000


def spin(cpu_ns: int) -> None:
    end = time.thread_time_ns() + cpu_ns
    while time.thread_time_ns() < end:
        pass


def test_stages_are_added_up_in_order() -> None:
    timeline = Timeline()
    for tier, stage, ns in [("a", "encode", 1), ("b", "infer", 2), ("a", "encode", 3), ("a", "decode", -5)]:
        timeline.add(tier, stage, ns)
    assert timeline.entries() == [("a", "encode", 4), ("b", "infer", 2), ("a", "decode", 0)]


@pytest.mark.parametrize("pace_frac", [0.5, 0.25])
def test_a_paced_stage_sleeps_what_its_work_owes(pace_frac: float) -> None:
    clock = StillClock()
    visit = Visit("t", Line(1, clock), pace_frac, clock)
    for _ in range(10):
        with visit.computing("infer"):
            spin(1_000_000)
    # Ten times a millisecond owes this much sleep; what the sleeps lasted too long is taken off again.
    owed_ns = 10 * 1_000_000 * (1 / pace_frac - 1)
    assert clock.ns == pytest.approx(owed_ns, rel=0.2)
    assert visit.timeline.entries() == [("t", "infer", clock.ns)]


def test_an_unpaced_stage_does_not_sleep() -> None:
    clock = StillClock()
    with Visit("t", Line(1, clock), 1.0, clock).computing("infer"):
        spin(1_000_000)
    assert clock.ns == 0


def test_what_the_client_still_waits() -> None:
    clock = StillClock()
    assert Visit("t", Line(1, clock), 1.0, clock).left_s is None
    visit = Visit("t", Line(1, clock), 1.0, clock, timeout_s=2.0)
    clock.ns += 500_000_000
    assert visit.left_s == pytest.approx(1.5)
    clock.ns += 5_000_000_000
    assert visit.left_s == pytest.approx(0.001)


def test_nothing_is_computed_for_who_has_given_up() -> None:
    clock = StillClock()
    line = Line(1, clock)
    visit = Visit("t", line, 1.0, clock, timeout_s=0.5)
    with visit.turn():
        clock.ns += 600_000_000
    late = pytest.raises(RefusalError, match=r"must come before its deadline, but got 0\.1 s after it")
    with late as caught, visit.turn():
        pytest.fail("computed")
    assert caught.value.code is Code.TOO_LATE
