import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.runtime import Candidate, Choice, Chooser
from tierwise.testing import FakeClock

OFFLOAD = Candidate("offload", True, 0.05, 0.06, 0.10)
SPLIT = Candidate("split", True, 0.04, 0.05, 0.10)
LOCAL = Candidate("local", True, 0.03, 0.03, 0.15)
ALL = (OFFLOAD, SPLIT, LOCAL)
ACCURATE, FAST = Chooser("accurate", 0.2, 1.0), Chooser("fast", 0.2, 1.0)


def slow(one: Candidate, seconds: float) -> Candidate:
    return replace(one, expected_s=seconds, careful_s=seconds)


def down(one: Candidate) -> Candidate:
    return replace(one, usable=False)


def settled(chooser: Chooser, choice: Choice, candidates: tuple[Candidate, ...], clock: FakeClock) -> Choice:
    for _ in range(30):
        choice = chooser.step(choice, candidates, clock.now_ns())
        clock.sleep(0.1)
    return choice


@pytest.mark.parametrize(
    ("candidates", "accurate", "fast"),
    [
        (ALL, "offload", "local"),
        ((slow(OFFLOAD, 0.2), SPLIT, LOCAL), "split", "local"),
        ((slow(OFFLOAD, 0.2), slow(SPLIT, 0.2), LOCAL), "local", "local"),
        ((OFFLOAD, SPLIT, slow(LOCAL, 0.5)), "offload", "split"),
        # Where nothing keeps its limit, whatever is there first.
        ((slow(OFFLOAD, 0.4), slow(SPLIT, 0.3), slow(LOCAL, 0.5)), "split", "split"),
        # What nobody has measured is tried for accuracy and not for speed.
        ((replace(OFFLOAD, expected_s=None, careful_s=None), SPLIT, LOCAL), "offload", "local"),
        ((down(OFFLOAD), SPLIT, LOCAL), "split", "local"),
        ((down(OFFLOAD), down(SPLIT), down(LOCAL)), None, None),
    ],
)
def test_the_policies(candidates: tuple[Candidate, ...], accurate: str | None, fast: str | None) -> None:
    assert ACCURATE.step(Choice(), candidates, 0).name == accurate
    assert FAST.step(Choice(), candidates, 0).name == fast


def test_a_better_path_must_be_so_for_a_while() -> None:
    clock = FakeClock()
    choice = ACCURATE.step(Choice(), (down(OFFLOAD), down(SPLIT), LOCAL), clock.now_ns())
    for _ in range(10):
        assert choice.name == "local"
        choice = ACCURATE.step(choice, ALL, clock.now_ns())
        clock.sleep(0.1)
    assert ACCURATE.step(choice, ALL, clock.now_ns()).name == "offload"


def test_a_rival_that_wavers_begins_anew() -> None:
    clock = FakeClock()
    choice = Choice("local")
    for i in range(40):
        choice = ACCURATE.step(choice, ALL if i % 8 else (down(OFFLOAD), down(SPLIT), LOCAL), clock.now_ns())
        clock.sleep(0.1)
        assert choice.name == "local"


def test_the_margin_holds_the_path_that_is_in_use() -> None:
    clock = FakeClock()
    near = (slow(OFFLOAD, 0.09), down(SPLIT), LOCAL)  # within the limit, but not by a fifth
    assert settled(ACCURATE, Choice("offload"), near, clock).name == "offload"
    assert settled(ACCURATE, Choice("local"), near, clock).name == "local"
    little = (OFFLOAD, slow(SPLIT, 0.029), slow(LOCAL, 0.03))
    assert settled(FAST, Choice("local"), little, clock).name == "local"
    assert settled(FAST, Choice("split"), little, clock).name == "split"


def test_a_path_that_breaks_or_no_longer_keeps_its_limit_is_left_at_once() -> None:
    assert ACCURATE.step(Choice("offload"), (down(OFFLOAD), down(SPLIT), LOCAL), 0).name == "local"
    assert ACCURATE.step(Choice("offload"), (slow(OFFLOAD, 0.2), slow(SPLIT, 0.2), LOCAL), 0).name == "local"
    assert FAST.step(Choice("local"), (OFFLOAD, SPLIT, down(LOCAL)), 0).name == "split"


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 0.5), st.floats(0.0, 2.0)), min_size=1, max_size=60))
def test_whatever_comes_an_unusable_path_is_never_chosen_and_switches_keep_their_distance(
    steps: list[tuple[bool, float, float]],
) -> None:
    clock, choice = FakeClock(), Choice()
    switched_s: list[float] = []
    for usable, seconds, pause_s in steps:
        candidates = (replace(slow(OFFLOAD, seconds), usable=usable), LOCAL)
        before = choice
        choice = FAST.step(choice, candidates, clock.now_ns())
        assert choice.name in {one.name for one in candidates if one.usable}
        if choice.switches > before.switches and before.name == "local":
            switched_s.append(clock.now_ns() / 1e9)
        clock.sleep(pause_s)
    # The usable path on the device is only ever left after a second's patience.
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(switched_s))


def test_after_a_step_nothing_is_waited_for() -> None:
    choice = FAST.step(Choice(), (OFFLOAD,), 0)
    assert FAST.step(choice, ALL, 1).name == "offload"
    assert FAST.step(choice, ALL, 1, stepped=True).name == "local"
    near = (OFFLOAD, slow(LOCAL, 0.045))
    assert FAST.step(choice, near, 1, stepped=True).name == "offload", "the margin holds all the same"
