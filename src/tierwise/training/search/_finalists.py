"""The best scheme of each depth, trained: sums of gains choose within a depth, measurements between depths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from tierwise.training._scheme import Scheme
from tierwise.training.compiler import Prediction
from tierwise.training.search._contribution import Probe, Trials
from tierwise.training.search._exact import best_of_depth
from tierwise.training.search._search import ROUNDS, Found, ask_less, check_budget, found_in
from tierwise.training.search._table import Budget, Choice, Table

__all__ = ["Tried", "best_tried", "try_finalists"]


@final
@dataclass(frozen=True)
class Tried:
    """A scheme that was trained.

    Attributes:
        found: The scheme.
        accuracy: On the held items.
    """

    found: Found
    accuracy: float


def try_finalists(
    table: Table, budget: Budget, predict: Callable[[Scheme], Prediction], trials: Trials, probe: Probe
) -> tuple[Tried, ...]:
    """Train the best scheme of each depth, from the shallowest on; the captured step of each is within ``budget``.

    That gains add up is a guess, and at its worst between depths, whose biases do a part of what weights would.

    Args:
        table: Gains and costs.
        budget: Bytes and CPU time of a step.
        predict: Captures the step of a scheme.
        trials: Trains, or knows from before.
        probe: The training.

    Raises:
        InputError: Not even training the classifier alone is within the budget.
    """
    check_budget(table, budget)
    best = [_finalist(table, depth, budget, predict) for depth in range(len(table.depths))]
    return tuple(Tried(one, trials.accuracy(one.scheme, probe)) for one in best if one is not None)


def best_tried(tried: Sequence[Tried]) -> Tried:
    """The most accurate; of equals the one that takes least."""
    return max(tried, key=lambda one: (one.accuracy, -one.found.captured_bytes))


def _finalist(table: Table, depth: int, budget: Budget, predict: Callable[[Scheme], Prediction]) -> Found | None:
    """None where no captured step of the depth is within ``budget``."""
    asked, least = budget, table.bytes(Choice(depth))
    for _ in range(ROUNDS):
        choice = best_of_depth(table, depth, asked)
        if choice is None:
            return None
        found = found_in(table, choice, predict)
        over = found.captured_bytes - budget.bytes
        if over <= 0:
            return found
        asked = ask_less(asked, over, least)
    return None
