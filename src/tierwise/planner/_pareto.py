"""Which points no other point beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tierwise._errors import InputError

__all__ = ["pareto"]


def pareto(points: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Indices of the points that are not dominated, in their order; every coordinate is to be small.

    A point is dominated when another is nowhere worse and somewhere better. Equal points do not dominate each other:
    both are kept.

    Args:
        points: [n, d]; n may be 0.

    Raises:
        InputError: Points of different length, or a coordinate that is not a number.

    Example:
        >>> pareto([(1, 9), (2, 2), (3, 3), (9, 1)])
        (0, 1, 3)
    """
    if not points:
        return ()
    sizes = {len(point) for point in points}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError("every point must have the same number of coordinates, at least one", got=sorted(sizes))
    table = np.asarray(points, dtype=np.float64)
    if np.isnan(table).any():
        raise InputError(
            "every coordinate must be a number", got="nan", where=f"point {int(np.isnan(table).any(1).argmax())}"
        )
    # In lexicographic order, what dominates a point stands before it, and something on the front does.
    front: list[int] = []
    for index in np.lexsort(table.T[::-1]):
        better = table[front]
        if not ((better <= table[index]).all(axis=1) & (better < table[index]).any(axis=1)).any():
            front.append(int(index))
    return tuple(sorted(front))
