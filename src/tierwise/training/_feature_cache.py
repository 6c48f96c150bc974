"""What the frozen part of a model gives for an item never changes: it is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy.typing as npt

__all__ = ["FeatureCache"]


@final
class FeatureCache:
    """Features of as many items as fit, kept as they were first computed; none ever makes room for another.

    Every epoch sees every item once, in a new order: whichever was thrown out would be asked for as soon as any other.

    Args:
        like: A tensor of each name, items first.
        most_bytes: What it may take; memory is taken as items come.
    """

    def __init__(self, like: Mapping[str, npt.NDArray[Any]], most_bytes: int) -> None:
        item_bytes = sum(array[:1].nbytes for array in like.values())
        self._capacity = most_bytes // item_bytes if item_bytes else 0
        self._kept: dict[int, dict[str, npt.NDArray[Any]]] = {}

    def knows(self, items: Sequence[int]) -> bool:
        """Whether the features of all of ``items`` are here."""
        return all(item in self._kept for item in items)

    def take(self, items: Sequence[int], into: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the features of known ``items`` into tensors of as many rows."""
        for place, item in enumerate(items):
            for name, row in self._kept[item].items():
                into[name][place] = row

    def put(self, items: Sequence[int], features: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep a copy of the features of ``items`` where there is room."""
        for place, item in enumerate(items):
            if item not in self._kept and len(self._kept) < self._capacity:
                self._kept[item] = {name: rows[place].copy() for name, rows in features.items()}
