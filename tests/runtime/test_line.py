import threading
import time
from collections.abc import Callable

import pytest

from tierwise._clock import SystemClock
from tierwise.runtime._curve import Curve
from tierwise.runtime._line import LAST, Line, Ticket
from tierwise.runtime._refusal import Code, RefusalError


def line(width: int = 1) -> Line:
    return Line(width, SystemClock())


def curve(ns: int) -> Curve:
    made = Curve()
    made.learn(1, ns)
    return made


def start(work: Callable[[], None], waiting: Line, count: int) -> threading.Thread:
    """A thread that stands in line as number ``count`` when this returns."""
    thread = threading.Thread(target=work)
    thread.start()
    while len(waiting) < count:
        time.sleep(0.001)
    return thread


@pytest.mark.parametrize("width", [1, 3])
def test_at_most_width_at_once(width: int) -> None:
    waiting, inside, most, mutex = line(width), 0, 0, threading.Lock()

    def compute() -> None:
        nonlocal inside, most
        for _ in range(20):
            with waiting.turn(Ticket()):
                with mutex:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0002)
                with mutex:
                    inside -= 1

    threads = [threading.Thread(target=compute) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == width


def test_lower_priorities_first_and_equal_ones_as_they_came() -> None:
    waiting, order, threads = line(), [], []

    def compute(priority: int, number: int) -> None:
        with waiting.turn(Ticket(priority=priority)):
            order.append((priority, number))

    with waiting.turn(Ticket()):
        for number, priority in enumerate([2, LAST, 2, 1, 2, 1]):
            threads.append(start(lambda p=priority, n=number: compute(p, n), waiting, number + 1))
    for thread in threads:
        thread.join()
    assert order == [(1, 3), (1, 5), (2, 0), (2, 2), (2, 4), (LAST, 1)]


def test_a_failure_gives_the_turn_back() -> None:
    waiting = line()
    with pytest.raises(RuntimeError), waiting.turn(Ticket()):
        raise RuntimeError
    with waiting.turn(Ticket()):
        pass


def test_a_deadline_that_passes_in_the_line_is_told_then_and_nothing_is_computed() -> None:
    waiting, clock = line(), SystemClock()
    with waiting.turn(Ticket()):
        late = pytest.raises(RefusalError, match=r"must get its turn before its deadline, but got 0\.0[1-9]")
        with late as caught, waiting.turn(Ticket(deadline_ns=clock.now_ns() + 15_000_000)):
            pytest.fail("computed")
        assert len(waiting) == 0
    assert caught.value.code is Code.TOO_LATE


def test_a_deadline_that_the_line_cannot_meet_is_refused_at_once() -> None:
    waiting, clock, known = line(), SystemClock(), curve(1_000_000_000)
    with waiting.turn(Ticket(curve=known)):
        started_ns = clock.now_ns()
        hopeless = pytest.raises(
            RefusalError, match=r"with 0\.(5|4\d*) s left must find a shorter line, but got (1|0\.9\d*) s of"
        )
        with hopeless as caught, waiting.turn(Ticket(deadline_ns=started_ns + 500_000_000, curve=curve(1000))):
            pytest.fail("computed")
        assert clock.now_ns() - started_ns < 400_000_000
        assert caught.value.code is Code.EXHAUSTED
        assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.2)


def test_who_goes_first_does_not_count_those_behind() -> None:
    waiting, clock, known = line(), SystemClock(), curve(1_000_000_000)
    done: list[int] = []

    def compute(ticket: Ticket) -> None:
        with waiting.turn(ticket):
            done.append(ticket.priority)

    running = Ticket()
    with waiting.turn(running):
        slow = start(lambda: compute(Ticket(priority=2, curve=known)), waiting, 1)
        soon = clock.now_ns() + 500_000_000
        with pytest.raises(RefusalError, match=r"must find a shorter line"):
            waiting.enter(Ticket(priority=2, deadline_ns=soon, curve=curve(1000)))
        quick = start(lambda: compute(Ticket(priority=1, deadline_ns=soon, curve=curve(1000))), waiting, 2)
    slow.join()
    quick.join()
    assert done == [1, 2]


def test_a_leader_takes_its_kind_and_hands_out_what_came_of_it() -> None:
    waiting, given = line(), {}

    def follow(number: int, key: str) -> None:
        ticket = Ticket(key=key, items=2, curve=curve(1000), load=number)
        if waiting.enter(ticket):
            given[number] = "led"
            waiting.leave(ticket)
        else:
            given[number] = ticket.result

    leader, threads = Ticket(key="a", items=1), []
    assert waiting.enter(leader)
    for number, key in enumerate("aabaa"):
        threads.append(start(lambda n=number, k=key: follow(n, k), waiting, number + 1))
    assert waiting.crowd("a") == (8, True, 6)
    taken = waiting.take(leader, most=6)
    assert [ticket.load for ticket in taken] == [0, 1]
    for ticket in taken:
        waiting.finish(ticket, f"for {ticket.load}")
    waiting.leave(leader)
    for thread in threads:
        thread.join()
    assert given == {0: "for 0", 1: "for 1", 2: "led", 3: "led", 4: "led"}


def test_a_patient_leader_wakes_when_somebody_comes() -> None:
    waiting, leader = line(), Ticket(key="a")
    assert waiting.enter(leader)
    *_, joined = waiting.crowd("a")
    assert not waiting.wait_for_more(leader, joined, 5e6)
    follower = Ticket(key="a")
    threading.Timer(0.02, waiting.enter, (follower,)).start()
    started_s = time.monotonic()
    assert waiting.wait_for_more(leader, joined, 30e9)
    assert time.monotonic() - started_s < 10
    assert waiting.wait_for_more(leader, joined, 30e9)  # it has come meanwhile
    (taken,) = waiting.take(leader, 2)
    waiting.finish(taken, None)
    waiting.leave(leader)
