import itertools

import pytest

from tierwise.runtime._curve import Curve
from tierwise.runtime._statistics import Counters


def curve(**ns: float) -> Curve:
    made = Curve()
    for size, value in ns.items():
        made.learn(int(size[1:]), round(value))
    return made


FLAT = {f"n{size}": 1000.0 for size in (1, 2, 4, 8)}
LINEAR = {f"n{size}": 1000.0 * size for size in (1, 2, 4, 8)}


def test_between_and_beyond_what_was_seen() -> None:
    seen = curve(n2=100, n4=140)
    assert [seen.ns(size) for size in (1, 2, 3, 4, 8)] == [50, 100, 120, 140, 280]
    assert Curve().ns(3) == 0
    seen.learn(0, 5)
    assert seen.sizes == (2, 4)


def test_new_times_replace_old_ones_and_the_best_is_kept() -> None:
    seen = curve(n1=100)
    for _ in range(60):
        seen.learn(1, 200)
    assert seen.ns(1) == pytest.approx(200, rel=0.01)
    assert seen.least_ns(1) == 100


@pytest.mark.parametrize(
    ("points", "waiting", "most", "budget_ns", "size"),
    [
        (FLAT, 8, 32, 1e9, 8),
        (FLAT, 3, 32, 1e9, 3),
        (FLAT, 8, 4, 1e9, 4),
        (LINEAR, 8, 32, 1e9, 1),
        ({"n1": 1000, "n8": 1400}, 8, 32, 1200, 4),  # what 8 take is beyond the budget
        ({"n1": 1000, "n8": 1400}, 8, 32, 500, 1),  # so is what one takes: it must be computed all the same
        (LINEAR, 32, 32, 1e9, 32),  # a backlog: no time of an item is shorter, but there are fewer turns
        (LINEAR, 64, 32, 8000, 8),
        ({"n1": 1000, "n4": 2200, "n8": 4600, "n16": 12000}, 16, 16, 1e9, 8),  # within a tenth, the fewest turns
        ({"n1": 1000, "n4": 3000, "n8": 9000}, 64, 8, 1e9, 4),  # more at once takes longer for each
        ({"n1": 1000}, 64, 8, 1e9, 1),  # nobody has seen what more of them take
        ({}, 8, 32, 1e9, 1),
        (FLAT, 1, 32, 1e9, 1),
    ],
)
def test_how_many_at_once(points: dict[str, float], waiting: int, most: int, budget_ns: float, size: int) -> None:
    assert curve(**points).choose(waiting, most, budget_ns) == size


def test_the_choice_has_the_least_mean_latency() -> None:
    seen = curve(n1=1000, n2=1300, n4=2200, n8=4600, n16=12000)
    for waiting in range(1, 16):
        sizes = [size for size in (1, 2, 4, 8, 16, waiting) if size <= waiting]

        def mean_ns(size: int, waiting: int = waiting) -> float:
            ends = itertools.accumulate(seen.ns(size) for _ in range(-(-waiting // size)))
            return sum(ends) / -(-waiting // size)

        chosen = seen.choose(waiting, 16, 1e9)
        assert mean_ns(chosen) <= 1.011 * min(mean_ns(size) for size in sizes)


def test_waiting_pays_exactly_where_the_sum_of_latencies_says_so() -> None:
    seen = curve(n1=1000, n2=1100, n3=1200, n4=1300)
    for together in (1, 2, 3):
        patience_ns = seen.patience_ns(together)
        for later_ns in (1.0, 0.9 * patience_ns, 1.1 * patience_ns):
            now = together * seen.ns(together) + seen.ns(together) - later_ns + seen.ns(1)
            waited = together * (later_ns + seen.ns(together + 1)) + seen.ns(together + 1)
            assert (waited < now) == (later_ns < patience_ns)


def test_nobody_waits_where_batches_gain_nothing_or_nothing_is_known() -> None:
    assert curve(**LINEAR).patience_ns(1) < 0
    assert curve(n1=1000).patience_ns(1) == 0
    assert Curve().patience_ns(1) == 0


def test_a_queue_takes_its_batches() -> None:
    assert curve(**FLAT).queue_ns(8, 4, 1e9) == 2000
    assert curve(**LINEAR).queue_ns(8, 4, 1e9) == 8000
    assert Curve().queue_ns(8, 4, 1e9) == 0


def test_what_clients_send_does_not_choose_how_much_is_remembered() -> None:
    seen = Curve()
    for size in range(1, 20_000):
        seen.learn(size, 1000 * size)
    assert seen.sizes[:127] == tuple(range(1, 128))
    assert len(seen.sizes) < 1000
    for size in (1, 100, 129, 5000, 19_999, 70_000):
        assert seen.ns(size) == pytest.approx(1000 * size, rel=0.02)
    counters = Counters()
    for size in range(1, 1000):
        counters.executed(size, {"infer": size})
    told = counters.statistics("m", "1")
    assert told.execution_count == 999
    assert [batch.batch_size for batch in told.batches] == list(range(1, 257))
