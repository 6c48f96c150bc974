"""Rows of tokens and what follows each of them, from running text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.training._labels import IGNORED

__all__ = ["next_tokens", "read_bytes"]


def next_tokens(tokens: npt.NDArray[np.int64], length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows [n, length] that cover ``tokens`` once, and labels of the same shape: at each place the token behind it.

    The end of the last row is filled with token 0 and labels that do not count.

    Args:
        tokens: The whole text, [count].
        length: Tokens of a row.

    Raises:
        InputError: Fewer than two tokens.

    Example:
        >>> rows, labels = next_tokens(np.array([5, 6, 7, 8]), 2)
        >>> rows.tolist(), labels.tolist()
        ([[5, 6], [7, 0]], [[6, 7], [8, -100]])
    """
    if tokens.ndim != 1 or len(tokens) < 2:
        raise InputError("a text to learn from must have at least two tokens", got=list(tokens.shape))
    count = -(-(len(tokens) - 1) // length)
    rows, labels = np.zeros(count * length, np.int64), np.full(count * length, IGNORED, np.int64)
    rows[: len(tokens) - 1] = tokens[:-1]
    labels[: len(tokens) - 1] = tokens[1:]
    return rows.reshape(count, length), labels.reshape(count, length)


def read_bytes(path: Path) -> npt.NDArray[np.int64]:
    """A file as tokens, one for each byte: a vocabulary of 256 that needs no tokeniser.

    Raises:
        InputError: No such file.
    """
    if not path.is_file():
        raise InputError("a text to learn from must exist", where=path)
    return np.frombuffer(path.read_bytes(), np.uint8).astype(np.int64)
