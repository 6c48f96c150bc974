from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise._errors import InputError
from tierwise.planner import pareto

coordinates = st.integers(0, 6).map(float)
tables = st.integers(1, 4).flatmap(lambda d: st.lists(st.tuples(*[coordinates] * d), max_size=25))


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@given(tables)
def test_front_is_what_nothing_dominates(points):
    expected = tuple(i for i, p in enumerate(points) if not any(dominates(q, p) for q in points))
    assert pareto(points) == expected


@given(tables, st.randoms())
def test_order_of_points_does_not_matter(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = pareto([points[i] for i in order])
    assert sorted(order[i] for i in shuffled) == list(pareto(points))


def test_points_must_fit_together():
    with pytest.raises(InputError, match=r"same number of coordinates, at least one, but got \[1, 2\]"):
        pareto([(1.0,), (1.0, 2.0)])
    with pytest.raises(InputError, match=r"point 1: every coordinate must be a number, but got nan"):
        pareto([(1.0, 2.0), (float("nan"), 2.0)])
