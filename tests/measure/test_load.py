from __future__ import annotations

import itertools
import threading
from typing import final

import numpy as np

from tierwise._clock import Clock
from tierwise._errors import RemoteError
from tierwise.measure import (
    Block,
    Offline,
    Query,
    Record,
    Reply,
    Server,
    SingleStream,
    StageTime,
    Turn,
    class_of,
    plan_round,
    run_block,
    run_cold,
    warm_up,
)
from tierwise.testing import FakeClock

TURN = Turn(session=3, attempt=1, labels=(0, 1, 2))


@final
class Sleeper:
    """Answers class ``sample`` after given times; fails where the time is None."""

    def __init__(self, name: str, clock: Clock, *times_s: float | None) -> None:
        self.name, self._clock, self._times_s = name, clock, list(times_s)
        self._lock, self.calls = threading.Lock(), 0

    def issue(self, sample: int) -> Reply:
        with self._lock:
            time_s = self._times_s[min(self.calls, len(self._times_s) - 1)]
            self.calls += 1
        if time_s is None:
            raise RemoteError("the node must answer", got="nothing", where="edge")
        self._clock.sleep(time_s)
        scores = np.eye(3, dtype=np.float32)[[sample]]
        return Reply({"scores": scores}, (StageTime("edge", "infer", time_s),), 10, 20, ("edge",))


def test_single_stream_waits_for_each_answer() -> None:
    clock = FakeClock()
    systems = {name: Sleeper(name, clock, time_s) for name, time_s in (("slow", 0.5), ("fast", 0.1))}
    block = Block(2, ("fast", "slow"), (Query(7, 1),))
    fast, slow = run_block(block, systems, SingleStream(), clock, TURN)
    assert fast == Record(
        strategy="fast", scenario="single-stream", session=3, round=2, query=7, sample=1, cold=False, started_ns=0,
        latency_s=0.1, stages=(StageTime("edge", "infer", 0.1),), bytes_up=10, bytes_down=20, prediction=1,
        correct=True, attempt=1,
    )  # fmt: skip
    assert (slow.started_ns, slow.latency_s) == (100_000_000, 0.5)
    assert fast.key == ("fast", "single-stream", 3, 2, 7, False)


def test_failures_are_records() -> None:
    clock = FakeClock()
    system = Sleeper("s", clock, None, 0.2)
    block = Block(0, ("s",), (Query(0, 0), Query(1, 2)))
    failed, answered = run_block(block, {"s": system}, SingleStream(), clock, TURN)
    assert failed.error == "RemoteError: edge: the node must answer, but got nothing."
    assert (failed.prediction, failed.correct, failed.stages) == (None, None, ())
    assert (answered.error, answered.prediction, answered.correct) == (None, 2, True)


def test_server_counts_from_the_scheduled_arrival() -> None:
    # One request at a time, 1 s each, arriving every 0.1 s: the k-th waits for all before it.
    clock = FakeClock(threads=True, quiet_s=0.02)
    block = Block(0, ("s",), tuple(Query(k, 0, 0.1 * k) for k in range(8)))
    scenario = Server(rate_per_s=10, queries=8, outstanding=1)
    records = run_block(block, {"s": Sleeper("s", clock, 1.0)}, scenario, clock, TURN)
    assert [record.query for record in records] == list(range(8))
    assert [record.started_ns for record in records] == [round(1e8 * k) for k in range(8)]
    np.testing.assert_allclose([record.latency_s for record in records], [k + 1 - 0.1 * k for k in range(8)])


def test_server_overlaps_what_may_overlap() -> None:
    clock = FakeClock(threads=True, quiet_s=0.02)
    block = Block(0, ("s",), tuple(Query(k, 0, 0.1 * k) for k in range(8)))
    scenario = Server(rate_per_s=10, queries=8, outstanding=64)
    records = run_block(block, {"s": Sleeper("s", clock, 1.0)}, scenario, clock, TURN)
    np.testing.assert_allclose([record.latency_s for record in records], 1.0)


def test_server_waiting_follows_lindleys_recursion() -> None:
    # Waiting of one server: w[k+1] = max(0, w[k] + service - gap).
    clock = FakeClock(threads=True, quiet_s=0.01)
    scenario = Server(rate_per_s=0.7, queries=40, outstanding=1)
    (block,) = plan_round(scenario, ["s"], samples=3, seed=5, session=0, round=0)
    records = run_block(block, {"s": Sleeper("s", clock, 1.0)}, scenario, clock, TURN)
    due_s = [query.due_s for query in block.queries]
    waits_s = [0.0]
    for before, after in itertools.pairwise(due_s):
        waits_s.append(max(0.0, waits_s[-1] + 1.0 - (after - before)))
    np.testing.assert_allclose([record.latency_s for record in records], np.add(waits_s, 1.0), atol=1e-6)


def test_offline_keeps_its_number_under_way() -> None:
    clock = FakeClock(threads=True, quiet_s=0.02)
    block = Block(0, ("s",), tuple(Query(k, 0) for k in range(12)))
    scenario = Offline(queries=12, outstanding=4)
    records = run_block(block, {"s": Sleeper("s", clock, 1.0)}, scenario, clock, TURN)
    assert sorted(round(record.latency_s) for record in records) == [1] * 4 + [2] * 4 + [3] * 4
    assert {record.started_ns for record in records} == {0}


def test_cold_requests_carry_their_loading() -> None:
    clock = FakeClock()
    record = run_cold(Sleeper("s", clock, 0.3), SingleStream(), 4, 2, 1.5, clock, TURN)
    assert (record.cold, record.load_s, record.latency_s) == (True, 1.5, 0.3)
    assert record.key == ("s", "single-stream", 3, 4, 0, True)


def test_classes_come_from_scores_only() -> None:
    assert class_of(np.array([[0.1, 0.7, 0.2]])) == 1
    assert class_of(np.array([[0.1], [0.7]])) is None
    assert class_of(np.array([0.1, 0.7])) is None
    assert class_of(np.array([[b"x"]], dtype=object)) is None


def warm(times_s: dict[str, list[float | None]], *, window: int = 2, windows: int = 5) -> dict[str, tuple[int, bool]]:
    clock = FakeClock()
    systems = {name: Sleeper(name, clock, *times) for name, times in times_s.items()}
    done = warm_up(systems, samples=3, window=window, windows=windows, seed=0, session=0, clock=clock)
    assert [entry.strategy for entry in done] == list(times_s)
    assert [entry.requests for entry in done] == [system.calls for system in systems.values()]
    return {entry.strategy: (entry.requests, entry.settled) for entry in done}


def test_warm_up_ends_when_two_windows_agree() -> None:
    found = warm({
        "at once": [1.0],
        "after three": [9.0, 9.0, 2.0, 2.0, 1.99],
        "never": [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0],
        "dead": [None],
    })  # fmt: skip
    assert found == {"at once": (4, True), "after three": (6, True), "never": (10, False), "dead": (2, False)}


def test_warm_up_wants_less_than_two_percent() -> None:
    assert warm({"s": [1.0, 1.0, 1.02]}, windows=2) == {"s": (4, False)}
    assert warm({"s": [1.0, 1.0, 1.019]}, windows=2) == {"s": (4, True)}
