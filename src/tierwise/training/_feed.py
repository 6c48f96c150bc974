"""Which items a step learns from: a function of seed and step, so that a resumed training sees the same."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise._seeds import stream

__all__ = ["Feed"]


@final
class Feed:
    """All items in a new order every epoch; a batch may reach over the end of one.

    Args:
        items: How many there are.
        batch: Items of a step.
        seed: Of the orders.

    Raises:
        InputError: No items.
    """

    def __init__(self, items: int, batch: int, seed: int = 0) -> None:
        if items < 1:
            raise InputError("training needs at least one item", got=items)
        self._items, self._batch, self._seed = items, batch, seed
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Items of step ``step`` (from 0)."""
        places = np.arange(step * self._batch, (step + 1) * self._batch)
        epochs = sorted(set((places // self._items).tolist()))
        self._orders = {epoch: self._orders.get(epoch, self._order(epoch)) for epoch in epochs}
        return np.array([self._orders[p // self._items][p % self._items] for p in places.tolist()], np.int64)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch in self._orders:
            return self._orders[epoch]
        return stream(self._seed, "order", epoch).permutation(self._items).astype(np.int64)
