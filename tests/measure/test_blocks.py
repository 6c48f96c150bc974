from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from tierwise._errors import InputError
from tierwise.measure import Block, Offline, Scenario, Server, SingleStream, plan_round

NAMES = ("a@x", "b@x", "c@y", "d@y")


def plan(
    scenario: Scenario, *, round: int = 0, session: int = 0, seed: int = 0, samples: int = 30
) -> tuple[Block, ...]:
    return plan_round(scenario, NAMES, samples=samples, seed=seed, session=session, round=round)


def test_single_stream_blocks_are_complete() -> None:
    blocks = plan(SingleStream())
    assert len(blocks) == 30
    assert sorted(block.queries[0].sample for block in blocks) == list(range(30))
    assert [block.queries[0].number for block in blocks] == list(range(30))
    for block in blocks:
        assert sorted(block.order) == sorted(NAMES)
        assert len(block.queries) == 1


def test_order_in_blocks_is_random_and_even() -> None:
    first = Counter(block.order[0] for round in range(40) for block in plan(SingleStream(), round=round))
    # 1200 blocks, 4 strategies: chi-square with 3 degrees of freedom, far tail.
    assert stats.chisquare([first[name] for name in NAMES]).pvalue > 1e-4
    orders = {block.order for round in range(40) for block in plan(SingleStream(), round=round)}
    assert len(orders) == 24


def test_plans_repeat_and_differ_by_round_session_and_seed() -> None:
    for scenario in (SingleStream(), Server(rate_per_s=10, queries=20), Offline(queries=20)):
        assert plan(scenario) == plan(scenario)
        assert plan(scenario) != plan(scenario, round=1)
        assert plan(scenario).__repr__() != plan(scenario, session=1).__repr__()
        assert plan(scenario) != plan(scenario, seed=1)


def test_streams_are_apart() -> None:
    slow, fast = plan(Server(rate_per_s=1, queries=50)), plan(Server(rate_per_s=100, queries=50))
    assert [block.order for block in slow] == [block.order for block in fast]
    assert [query.sample for query in slow[0].queries] == [query.sample for query in fast[0].queries]
    np.testing.assert_allclose(
        [query.due_s for query in slow[0].queries], [100 * query.due_s for query in fast[0].queries]
    )


def test_server_arrivals_are_poisson() -> None:
    (block, *others) = plan(Server(rate_per_s=50, queries=4000), samples=7)
    due = np.array([query.due_s for query in block.queries])
    gaps = np.diff(due, prepend=0.0)
    assert (gaps > 0).all()
    assert stats.kstest(gaps, "expon", args=(0, 1 / 50)).pvalue > 1e-3
    # Counts in windows of a second have their mean as variance.
    counts = np.bincount(due.astype(int))[:-1]
    assert 0.6 < counts.var() / counts.mean() < 1.5
    assert {query.sample for query in block.queries} == set(range(7))
    for other in others:
        assert other.queries == block.queries
    assert sorted(name for one in (block, *others) for name in one.order) == sorted(NAMES)


def test_offline_has_everything_at_once() -> None:
    blocks = plan(Offline(queries=64))
    assert len(blocks) == len(NAMES)
    assert {query.due_s for block in blocks for query in block.queries} == {0.0}


@pytest.mark.parametrize(("names", "samples"), [((), 3), (("a", "a"), 3), (("a",), 0)])
def test_impossible_rounds_are_refused(names: tuple[str, ...], samples: int) -> None:
    with pytest.raises(InputError, match="unique names and one input at least"):
        plan_round(SingleStream(), names, samples=samples, seed=0, session=0, round=0)
