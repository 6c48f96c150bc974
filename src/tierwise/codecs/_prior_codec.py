"""Latents coded by a factorised prior: rounded, then range-coded channel by channel.

Source of the scheme: Ballé et al. 2018 (arXiv 1802.01436, appendix 6.1) as used by Entropic Student (arXiv 2108.11898).
Tables are integers frozen with the artifact, so that both sides compute alike on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, UnavailableError
from tierwise.codecs._fast_coder import FastDecoder, FastEncoder, model_of
from tierwise.codecs._frame import check_count, read_varint, write_varint
from tierwise.codecs._prior import ChannelTable, PriorTables, write_prior
from tierwise.codecs._range_coder import PRECISION, PythonDecoder, PythonEncoder

__all__ = ["PriorCodec"]

Coder = Literal["auto", "constriction", "python"]

_ESCAPES: Final = 1
# Several symbols are coded as one where the table of all such groups stays small: fewer steps for the coder.
_LARGEST, _LONGEST = 1 << 12, 4
_WHOLE: Final[dict[int, type]] = {1: np.uint32, 2: np.uint64, 4: np.complex128}
_SHIFT: Final = PRECISION - 16
_BEYOND: Final = float(1 << 24)
# Floats of this size are whole numbers, one apart; with a number within 2^22 added they still are.
_ROUNDING: Final = np.float32(3 << 22)
_NEAR: Final = 1 << 21


@final
class PriorCodec:
    """Codes latents [n, c, ...]; fewer channels than the tables have are a prefix, the missing ones decode to medians.

    Args:
        tables: Of all channels.
        coder: ``constriction`` is the library (fast), ``python`` our own with the same bytes; ``auto`` takes the
            library where it is installed.

    Raises:
        UnavailableError: The library was asked for and is not installed.
    """

    NUMBER: Final = 3

    def __init__(self, tables: PriorTables, coder: Coder = "auto") -> None:
        self.tables = tables
        self.tag = hashlib.sha256(write_prior(tables)).digest()
        self._library = _library(coder)
        self._channels = [_Channel(table, self._library) for table in tables.channels]
        self._runs = _runs([channel.size for channel in self._channels])
        self._medians = np.array([[table.median] for table in tables.channels], np.float32)
        self._lowest = np.array([[table.lowest] for table in tables.channels], np.int32)
        self._offsets = self._lowest + _ROUNDING.view(np.int32)
        self._near = bool((np.abs(self._lowest) < _NEAR).all())
        self._last = np.array([[len(table.frequencies) - 1] for table in tables.channels], np.uint32)

    def pack(self, tensor: npt.NDArray[Any]) -> tuple[bytes, int]:
        """Payload and flags of a latent.

        Raises:
            InputError: More channels than tables, or values that are not finite or beyond 2^24.
        """
        count = self._checked(tensor.shape)
        rows = np.moveaxis(tensor, 1, 0).reshape(count, _each(tensor.shape)).astype(np.float32, copy=False)
        centred = rows - self._medians[:count]
        symbols, escaped = self._symbols(centred) or self._symbols_and_escapes(centred)
        encoder = PythonEncoder() if self._library is None else FastEncoder(self._library)
        for first, last, size in self._runs:
            alike = symbols[first : min(last, count)]
            whole = alike.shape[1] // size * size
            # Channels that are grouped alike are grouped in one go.
            groups = _joined(alike[:, :whole], size, self._last[first : first + len(alike)].astype(np.int32) + 1)
            for channel, joined, rest in zip(self._channels[first:last], groups, alike[:, whole:], strict=False):
                channel.encode(encoder, joined, rest)
        stream = encoder.finish()
        if not escaped:
            return stream, 0
        return b"".join((write_varint(len(stream)), stream, *escaped)), _ESCAPES

    def _symbols(self, centred: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], list[bytes]] | None:
        """Indices into the tables; None where a value stands in none of them."""
        if not self._near:
            return None
        # The sum is rounded as rint would, half to even, and its lowest bits are the whole number.
        symbols = (centred + _ROUNDING).view(np.int32)
        symbols -= self._offsets[: len(centred)]
        # Read as unsigned, what lies below the table is large too, and so is all that the sum cannot hold.
        if (symbols.view(np.uint32) >= self._last[: len(centred)]).any():
            return None
        return symbols, []

    def _symbols_and_escapes(self, centred: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], list[bytes]]:
        """Indices into the tables, and the values that stand in none."""
        count = len(centred)
        whole = np.rint(centred)
        if whole.size and not (whole.max() < _BEYOND and whole.min() > -_BEYOND):
            raise InputError("values of a latent must be finite and within 2^24 of the channel's median")
        symbols = whole.astype(np.int32)
        symbols -= self._lowest[:count]
        outside = symbols.view(np.uint32) >= self._last[:count]
        values = (symbols + self._lowest[:count])[outside].tolist()
        np.copyto(symbols, self._last[:count], where=outside, casting="unsafe")
        return symbols, [write_varint(2 * value if value >= 0 else -2 * value - 1) for value in values]

    def unpack(self, payload: bytes, flags: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The latent [n, all channels, ...] of a payload.

        Raises:
            InputError: The payload cannot be of these tables.
        """
        count = self._checked(shape)
        check_count((shape[0], len(self._channels), *shape[2:]))
        escaped, at = memoryview(b""), 0
        if flags & _ESCAPES:
            size, at = read_varint(payload, 0, len(payload))
            payload, escaped = payload[at : at + size], memoryview(payload)[at + size :]
        decoder = PythonDecoder(payload) if self._library is None else FastDecoder(self._library, payload)
        latent = np.empty((len(self._channels), _each(shape)), np.float32)
        for channel, row in zip(self._channels, latent[:count], strict=False):
            channel.decode(decoder, row)
        latent[count:] = self._medians[count:]
        self._fill(latent[:count], escaped)
        return np.moveaxis(latent.reshape(len(latent), shape[0], *shape[2:]), 0, 1)

    def _fill(self, rows: npt.NDArray[np.float32], escaped: memoryview) -> None:
        """Put the values that stand in no table to their places."""
        places = np.flatnonzero(np.isnan(rows)) if np.isnan(rows.sum()) else np.empty(0, np.int64)
        values, at = [], 0
        for _ in places:
            folded, at = read_varint(escaped, at, len(escaped))
            values.append(folded >> 1 if folded % 2 == 0 else -(folded + 1 >> 1))
        if at != len(escaped):
            raise InputError("a payload must end with its last value", got=f"{len(escaped) - at} more bytes")
        if values:
            medians = self._medians[places // max(1, rows.shape[1]), 0]
            rows.reshape(-1)[places] = np.array(values, np.float32) + medians

    def _checked(self, shape: tuple[int, ...]) -> int:
        if len(shape) < 2 or not 0 <= shape[1] <= len(self._channels):
            raise InputError(
                f"a latent must be [items, channels, ...] with at most {len(self._channels)} channels", got=list(shape)
            )
        return shape[1]


def _each(shape: tuple[int, ...]) -> int:
    return shape[0] * math.prod(shape[2:])


def _library(coder: Coder) -> Any:
    if coder == "python":
        return None
    try:
        import constriction
    except ImportError as error:
        if coder == "auto":
            return None
        raise UnavailableError(
            "the fast range coder needs the library constriction", fix="pip install 'tierwise[codecs]'"
        ) from error
    return constriction


@final
class _Channel:
    """The coding of one channel: two or four symbols as one where the table of such groups is small."""

    def __init__(self, table: ChannelTable, library: Any) -> None:
        frequencies = np.array(table.frequencies, np.int64) << _SHIFT
        # What a symbol decodes to; the last one stands for all others, whose values come apart.
        known = np.arange(len(frequencies), dtype=np.float32)[:, None] + np.float32(table.lowest)
        known += np.float32(table.median)
        known[-1] = np.nan
        one = _Group(frequencies, known, library)
        while len(frequencies) ** 2 <= _LARGEST and known.shape[1] < _LONGEST:
            frequencies, known = _squared(frequencies), _paired(known)
        many = _Group(frequencies, known, library)
        self._groups = (many, one) if many.size > 1 else (one,)
        self.size = many.size

    def encode(self, encoder: Any, groups: npt.NDArray[np.int32], rest: npt.NDArray[np.int32]) -> None:
        """Code one row of symbols: joined to groups, and those that fill none."""
        for group, symbols in zip(self._groups, (groups, rest), strict=False):
            encoder.encode(symbols, group.model)

    def decode(self, decoder: Any, row: npt.NDArray[np.float32]) -> None:
        """The inverse of `encode`, into values; those in no table become nan."""
        for group in self._groups:
            count = len(row) // group.size
            decoded = group.known.take(decoder.decode(count, group.model)).view(np.float32)
            row[: len(decoded)] = decoded
            row = row[len(decoded) :]


@final
class _Group:
    """A table of groups of symbols.

    Args:
        frequencies: [k], `PRECISION` bits in sum.
        known: [k, symbols in a group] values they decode to.
        library: As `_library` gives it.
    """

    def __init__(self, frequencies: npt.NDArray[np.int64], known: npt.NDArray[np.float32], library: Any) -> None:
        cumulative = np.concatenate([[0], np.cumsum(frequencies)])
        self.size = known.shape[1]
        self.model = cumulative if library is None else model_of(library, cumulative)
        # All values of a group lie side by side, so that one look-up decodes all of them.
        self.known: npt.NDArray[Any] = np.ascontiguousarray(known).view(_WHOLE[self.size]).ravel()


def _joined(symbols: npt.NDArray[np.int32], size: int, values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Symbols [c, n size] of channels with ``values`` [c, 1] entries as groups [c, n]."""
    while size > 1:
        symbols = symbols[:, ::2] * values + symbols[:, 1::2]
        values, size = values**2, size // 2
    return symbols


def _runs(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first, behind the last, size) of neighbours with the same size."""
    runs, first = [], 0
    for size, alike in itertools.groupby(sizes):
        runs.append((first, first + len(list(alike)), size))
        first = runs[-1][1]
    return runs


def _squared(single: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Frequencies of pairs, at least 1 each and of the same sum, in whole arithmetic alone."""
    pairs: npt.NDArray[np.int64] = np.maximum(1, np.outer(single, single).ravel() >> PRECISION)
    pairs[int(pairs.argmax())] += (1 << PRECISION) - int(pairs.sum())
    return pairs


def _paired(known: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    count = len(known)
    return np.concatenate((np.repeat(known, count, axis=0), np.tile(known, (count, 1))), axis=1)
