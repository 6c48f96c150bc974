"""Integer tables of a factorised prior: how often each channel of a latent takes each whole value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError

__all__ = ["TOTAL", "ChannelTable", "PriorTables", "read_prior", "whole_frequencies", "write_prior"]

TOTAL: Final = 1 << 16
"""Frequencies of a channel sum to this."""

_MOST_VALUES: Final = 1 << 12


@final
@dataclass(frozen=True)
class ChannelTable:
    """One channel's distribution over whole numbers around its median.

    Attributes:
        median: What is subtracted before rounding and added after decoding.
        lowest: The whole number of the first entry.
        frequencies: Of ``lowest``, ``lowest + 1``, ..., and in the last place of all others together; each at least 1,
            `TOTAL` in sum.
    """

    median: float
    lowest: int
    frequencies: tuple[int, ...]

    @property
    def entropy_bits(self) -> float:
        """Expected bits of a symbol when the table is right."""
        share = np.array(self.frequencies) / TOTAL
        return float(-(share * np.log2(share)).sum())


@final
@dataclass(frozen=True)
class PriorTables:
    """The tables of all channels, in the order they are sent in.

    Attributes:
        channels: One for each.
    """

    channels: tuple[ChannelTable, ...]

    def bits(self, latent: npt.NDArray[np.float32]) -> float:
        """Bits an ideal coder would take for ``latent`` [n, c, ...] by these tables; without escaped values."""
        total = 0.0
        for table, values in zip(self.channels, np.moveaxis(latent, 1, 0), strict=False):
            index = np.rint(values.ravel() - np.float32(table.median)).astype(np.int64) - table.lowest
            last = len(table.frequencies) - 1
            index = np.where((index < 0) | (index > last), last, index)
            total -= float(np.log2(np.array(table.frequencies)[index] / TOTAL).sum())
        return total


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    channels: list[tuple[float, int, list[int]]]


def write_prior(tables: PriorTables) -> bytes:
    """The tables as they lie in an artifact."""
    rows = [(one.median, one.lowest, list(one.frequencies)) for one in tables.channels]
    return msgspec.msgpack.encode(_Stored(1, rows))


def read_prior(content: bytes) -> PriorTables:
    """The inverse of `write_prior`.

    Raises:
        ArtifactError: The bytes are not tables that a coder could use.
    """
    try:
        stored = msgspec.msgpack.decode(content, type=_Stored)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"the tables of a prior must be as they were written ({error})") from error
    if stored.version != 1:
        raise ArtifactError("the tables of a prior must be of version 1", got=stored.version)
    for i, (median, lowest, frequencies) in enumerate(stored.channels):
        sound = 2 <= len(frequencies) <= _MOST_VALUES + 1 and min(frequencies) >= 1 and sum(frequencies) == TOTAL
        if not (sound and abs(median) < 1 << 24 and abs(lowest) < 1 << 24):
            raise ArtifactError(
                f"each channel must have up to {_MOST_VALUES} frequencies from 1 that sum to {TOTAL}, within 2^24",
                got=f"{len(frequencies)} that sum to {sum(frequencies)}",
                where=f"channel {i}",
            )
    return PriorTables(tuple(ChannelTable(float(m), low, tuple(f)) for m, low, f in stored.channels))


def whole_frequencies(shares: Sequence[float] | npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Shares as frequencies: at least 1 each, `TOTAL` in sum, the largest remainders rounded up.

    Args:
        shares: Not negative, of any sum above 0.

    Raises:
        InputError: None, too many, negative or not finite.
    """
    given = np.asarray(shares, np.float64)
    if not 1 <= len(given) <= _MOST_VALUES + 1 or not np.isfinite(given).all() or given.min() < 0 or given.sum() <= 0:
        raise InputError(
            f"shares must be 1 to {_MOST_VALUES + 1} numbers, none negative, not all 0", got=f"{len(given)} shares"
        )
    exact = given / given.sum() * (TOTAL - len(given))
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: TOTAL - len(given) - int(whole.sum())]] += 1
    return tuple((whole + 1).tolist())
