import threading
import time

from tierwise.measure import Reply
from tierwise.runtime._race import Race


def test_exactly_one_of_many_answers_counts() -> None:
    for _ in range(50):
        race, won, start = Race(), [], threading.Barrier(8)

        def attempt(number: int, race: Race = race, won: list[int] = won, start: threading.Barrier = start) -> None:
            start.wait()
            if race.offer(Reply({}, bytes_up=number)):
                won.append(number)

        threads = [threading.Thread(target=attempt, args=(i,)) for i in range(8)]
        for thread in threads:
            race.enter()
            thread.start()
        assert race.wait(5.0)
        for thread in threads:
            thread.join()
        assert race.winner is not None
        assert won == [race.winner.bytes_up]


def test_waiting_ends_with_an_answer_with_the_last_failure_or_with_patience() -> None:
    race = Race()
    race.enter()
    race.enter()
    begun_s = time.monotonic()
    assert not race.wait(0.05)
    assert time.monotonic() - begun_s >= 0.04
    race.fail("a", ValueError("x"))
    assert not race.wait(0.01)
    race.fail("b", ValueError("y"))
    assert not race.wait(None)
    assert [name for name, _ in race.errors] == ["a", "b"]


def test_a_request_that_was_given_up_takes_no_answer() -> None:
    race = Race()
    race.enter()
    race.close()
    assert not race.open
    assert not race.offer(Reply({}))
    assert race.winner is None
