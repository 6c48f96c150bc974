import threading
import time

import pytest

from tierwise.runtime._turnstile import Turnstile


@pytest.mark.parametrize("width", [1, 3])
def test_at_most_width_at_once(width: int) -> None:
    turnstile, inside, most, mutex = Turnstile(width), 0, 0, threading.Lock()

    def compute() -> None:
        nonlocal inside, most
        for _ in range(20):
            with turnstile.turn():
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


def test_first_come_first_served() -> None:
    turnstile, order = Turnstile(1), []

    def compute(number: int) -> None:
        with turnstile.turn():
            order.append(number)

    threads = []
    with turnstile.turn():
        for number in range(6):
            threads.append(threading.Thread(target=compute, args=(number,)))
            threads[-1].start()
            while len(turnstile._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_a_failure_gives_the_turn_back() -> None:
    turnstile = Turnstile(1)
    with pytest.raises(RuntimeError), turnstile.turn():
        raise RuntimeError
    with turnstile.turn():
        pass
