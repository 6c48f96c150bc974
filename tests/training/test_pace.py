"""The share of a CPU that training takes, and that it lets requests go first."""

from __future__ import annotations

import mmap
import tempfile
import threading
import time

import pytest

from tierwise.training._pace import Busy, Pace


def burn(cpu_s: float) -> None:
    until_s = time.process_time() + cpu_s
    while time.process_time() < until_s:
        pass


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_work_pushes_the_next_back_by_its_share(share: float) -> None:
    pace = Pace(share)
    assert pace.wait_s == 0
    began_s = time.monotonic()
    burn(0.05)
    took_s = pace.worked(began_s)
    left_s = began_s + took_s / share - time.monotonic()
    assert took_s >= 0.05
    assert pace.wait_s == pytest.approx(max(left_s, 0), abs=0.02)


def test_time_that_was_not_used_is_not_saved_up() -> None:
    pace = Pace(0.02)
    time.sleep(0.3)
    began_s = time.monotonic()
    burn(0.05)
    took_s = pace.worked(began_s)
    assert took_s / 0.02 > 2
    assert pace.wait_s == pytest.approx(began_s + took_s / 0.02 - time.monotonic(), abs=0.05)


def test_no_step_begins_while_requests_are_under_way() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(1)
        byte, busy = mmap.mmap(file.fileno(), 1), Busy(file.fileno())
        busy.wait()
        byte[0] = 3
        went: list[bool] = []
        thread = threading.Thread(target=lambda: (busy.wait(), went.append(byte[0] == 0)))
        thread.start()
        time.sleep(0.1)
        byte[0] = 0
        thread.join()
        assert went == [True]
        byte[0] = 1
        busy.wait()  # after a second it goes on all the same
        byte.close()
