"""A range coder over tables of integer frequencies, in Python and NumPy alone.

The arithmetic is that of a range coder with 64 bits of state and 32-bit words (Martin 1979), as the library
``constriction`` has it (Bamler 2022, arXiv 2201.01741); both give the same bytes. Words are written with their highest
byte first, and the shortest tail that still names the last interval is kept, so that an end costs one byte at most.
"""

from __future__ import annotations

import bisect
from typing import Final, final

import numpy as np
import numpy.typing as npt

__all__ = ["PRECISION", "PythonDecoder", "PythonEncoder", "add_to", "close"]

PRECISION: Final = 24
"""Frequencies of a table sum to 2^24."""

_WORD, _STATE = 32, 64
_FULL: Final = (1 << _STATE) - 1
_LOW: Final = 1 << (_STATE - _WORD)


@final
class PythonEncoder:
    """Codes symbols one by one; slow and everywhere."""

    def __init__(self) -> None:
        self._lower, self._range = 0, _FULL
        self._words: list[int] = []

    def encode(self, symbols: npt.NDArray[np.int32], cumulative: npt.NDArray[np.int64]) -> None:
        """Add symbols.

        Args:
            symbols: [n], each an index into the table.
            cumulative: [k + 1] frequencies summed up, from 0 to 2^24.
        """
        table = cumulative.tolist()
        lower, width, words = self._lower, self._range, self._words
        for symbol in symbols.tolist():
            scale = width >> PRECISION
            start = table[symbol]
            width = scale * (table[symbol + 1] - start)
            lower += scale * start
            if lower > _FULL:
                lower &= _FULL
                _carry(words)
            if width < _LOW:
                words.append(lower >> _WORD)
                lower = lower << _WORD & _FULL
                width <<= _WORD
        self._lower, self._range = lower, width

    def finish(self) -> bytes:
        """What was coded, as `close` makes it."""
        return close(bytearray().join(word.to_bytes(4, "big") for word in self._words), self._lower, self._range)


def close(written: bytearray, lower: int, width: int) -> bytes:
    """The bytes that end a stream: of all points in [lower, lower + width) one with the fewest bytes."""
    if width == _FULL:
        return b""
    top = lower + width - 1
    for kept in range(0, _STATE + 1, 8):
        step = 1 << (_STATE - kept)
        point = -(-lower // step) * step
        if point <= top:
            break
    if point > _FULL:
        point &= _FULL
        add_to(written, 1)
    return bytes(written + point.to_bytes(8, "big")).rstrip(b"\0")


def add_to(written: bytearray, carry: int) -> None:
    """Add 1 to what was written, or take back (-1) a 1 that was added."""
    i, turns = len(written) - 1, 0xFF if carry > 0 else 0
    while written[i] == turns:
        written[i] = 0xFF - turns
        i -= 1
    written[i] += carry


def _carry(words: list[int]) -> None:
    i = len(words) - 1
    while words[i] == 0xFFFFFFFF:
        words[i] = 0
        i -= 1
    words[i] += 1


@final
class PythonDecoder:
    """The inverse of `PythonEncoder`.

    Args:
        content: What `close` gave. Behind its end everything is zero: a damaged stream gives wrong symbols, never an
            error, so that it needs a checksum of its own.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 8
        self._lower, self._range = 0, _FULL
        self._point = int.from_bytes(content[:8].ljust(8, b"\0"), "big")

    def decode(self, count: int, cumulative: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The next symbols.

        Args:
            count: How many.
            cumulative: As for `PythonEncoder.encode`.
        """
        symbols = np.empty(count, np.int32)
        lower, width, point, at = self._lower, self._range, self._point, self._at
        table, most = cumulative.tolist(), (1 << PRECISION) - 1
        for i in range(count):
            scale = width >> PRECISION
            symbol = bisect.bisect_right(table, min(((point - lower) & _FULL) // scale, most)) - 1
            start = table[symbol]
            symbols[i] = symbol
            width = scale * (table[symbol + 1] - start)
            lower = (lower + scale * start) & _FULL
            if width < _LOW:
                lower = lower << _WORD & _FULL
                width <<= _WORD
                word = int.from_bytes(self._content[at : at + 4].ljust(4, b"\0"), "big")
                point = (point << _WORD & _FULL) | word
                at += 4
        self._lower, self._range, self._point, self._at = lower, width, point, at
        return symbols
