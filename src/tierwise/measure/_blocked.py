"""Measurements in blocks: what was measured close together is compared with each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError

__all__ = ["Blocked", "Samples", "block"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """Latencies of one strategy and the block each was measured in.

    Attributes:
        latency_s: Seconds, [n], finite and positive.
        block: Id of the block, [n]; the same id at two strategies means that they were measured side by side.
    """

    latency_s: Floats
    block: Integers

    def __post_init__(self) -> None:
        """Check shapes and values."""
        values = np.asarray(self.latency_s, dtype=np.float64)
        if values.ndim != 1 or values.size == 0 or self.block.shape != values.shape:
            raise InputError("samples need one latency at least and one block for each", got=f"shape {values.shape}")
        if not (np.isfinite(values).all() and values.min() > 0):
            raise InputError("every latency must be a finite positive number of seconds", got=values.min())


@final
@dataclass(frozen=True, eq=False)
class Blocked:
    """Strategies over common blocks; a block may hold any number of measurements of a strategy, none included.

    Attributes:
        names: Strategies.
        blocks: Ids of all blocks, ascending, [b].
        values: Per strategy, its latencies in seconds, ascending.
        positions: Per strategy and latency, the position of its block in ``blocks``.
    """

    names: tuple[str, ...]
    blocks: Integers
    values: tuple[Floats, ...]
    positions: tuple[Integers, ...]

    def index(self, name: str) -> int:
        """Position of a strategy; KeyError where there is none."""
        if name not in self.names:
            raise KeyError(name)
        return self.names.index(name)

    def medians(self) -> Floats:
        """Median latency per block and strategy, [b, k]; NaN where a block has none of a strategy."""
        table = np.full((len(self.blocks), len(self.names)), np.nan)
        for column, (values, positions) in enumerate(zip(self.values, self.positions, strict=True)):
            if len(np.unique(positions)) == len(positions):
                table[positions, column] = values
            else:
                for position in np.unique(positions):
                    table[position, column] = np.median(values[positions == position])
        return table

    def complete(self) -> Floats:
        """The rows of `medians` without a gap."""
        table = self.medians()
        kept: Floats = table[~np.isnan(table).any(axis=1)]
        return kept


def block(samples: Mapping[str, Samples]) -> Blocked:
    """Bring strategies to common blocks.

    Raises:
        InputError: No strategy.
    """
    if not samples:
        raise InputError("a comparison needs one strategy at least")
    blocks = np.unique(np.concatenate([own.block for own in samples.values()]))
    orders = [np.argsort(own.latency_s, kind="stable") for own in samples.values()]
    return Blocked(
        names=tuple(samples),
        blocks=blocks.astype(np.int64),
        values=tuple(
            np.asarray(own.latency_s, dtype=np.float64)[o] for own, o in zip(samples.values(), orders, strict=True)
        ),
        positions=tuple(
            np.searchsorted(blocks, own.block[o]).astype(np.int64)
            for own, o in zip(samples.values(), orders, strict=True)
        ),
    )
