"""The best scheme of a table: for each depth a multiple-choice knapsack, solved to the optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tierwise._errors import TierwiseError
from tierwise.training.search._table import Budget, Choice, Table

__all__ = ["best_of_depth", "search_exactly"]

_SCALE = 1e4
"""The solver stops at an absolute gap of 1e-6; gains are accuracies, so this makes it one of 1e-10."""
_MOST_CUTS = 200


def search_exactly(table: Table, budget: Budget) -> Choice | None:
    """The choice of the largest gain within ``budget``; None where not even the shallowest depth fits.

    One mixed-integer program for each depth (branch and bound of HiGHS through SciPy): at most one ratio of each
    layer; bytes of the step, bytes of the prefix and seconds each within their budget. The solver works with
    tolerances, so its answer is weighed again in whole bytes; one that is over the budget by less than the tolerance is
    cut off and the program solved again.

    Raises:
        TierwiseError: The solver gave up.
    """
    found: list[Choice] = []
    for depth in range(len(table.depths)):
        best = best_of_depth(table, depth, budget)
        if best is not None:
            found.append(best)
    # Of equal gains the smaller one.
    return max(found, key=lambda choice: (table.gain(choice), -table.bytes(choice)), default=None)


def best_of_depth(table: Table, depth: int, budget: Budget) -> Choice | None:
    """The choice of the largest gain among those of one depth; None where its biases alone are over the budget.

    Raises:
        TierwiseError: The solver gave up.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not table.fits(Choice(depth), budget):
        return None
    groups = table.within(depth)
    places = [place for group in groups for place in group if table.slices[place].gain > 0]
    if not places:
        return Choice(depth)
    gains = np.array([table.slices[place].gain for place in places])
    rows, limits = _limits(table, depth, places, budget)
    for group in groups:
        rows.append(np.isin(places, group).astype(float))
        limits.append(1.0)
    for _ in range(_MOST_CUTS):
        answer: Any = milp(
            -_SCALE * gains,
            integrality=np.ones(len(places)),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(np.array(rows), -np.inf, np.array(limits)),
            options={"mip_rel_gap": 0.0},
        )
        if answer.status != 0:
            raise TierwiseError("the solver must find a best scheme", got=str(answer.message), where=f"depth {depth}")
        taken = np.round(answer.x).astype(int)
        choice = Choice(depth, tuple(sorted(place for place, x in zip(places, taken, strict=True) if x)))
        if table.fits(choice, budget):
            return choice
        rows.append(np.where(taken == 1, 1.0, -1.0))
        limits.append(float(taken.sum()) - 1.0)
    raise TierwiseError("the solver must find a scheme within the budget", got=f"{_MOST_CUTS} that are not")


def _limits(
    table: Table, depth: int, places: Sequence[int], budget: Budget
) -> tuple[list[npt.NDArray[np.float64]], list[float]]:
    """Rows over ``places`` and their upper limits, each scaled so that the limit is 1."""
    base, slices = table.depths[depth], [table.slices[place] for place in places]
    state = np.array([float(one.state_bytes) for one in slices])
    peak = np.array([float(one.step_peak_bytes) for one in slices])
    left = float(budget.bytes - base.step_peak_bytes - base.state_bytes)
    left_prefix = float(budget.bytes - base.prefix_peak_bytes - base.state_bytes)
    asked = [(peak + state, left), (state, left_prefix)]
    if budget.cpu_s is not None:
        asked.append((np.array([one.cpu_s for one in slices]), budget.cpu_s - base.cpu_s))
    rows, limits = [], []
    for row, limit in asked:
        scale = max(limit, float(np.abs(row).max(initial=0.0)), 1e-12)
        rows.append(row / scale)
        limits.append(limit / scale)
    return rows, limits
