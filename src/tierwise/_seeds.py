"""Named random streams: one root seed, independent streams by name, so that one thing can vary at a time."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["stream", "stream_seed"]


def stream_seed(root: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` under ``root``; equal on every machine and Python version."""
    text = "\x1f".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(root: int, *names: str | int) -> np.random.Generator:
    """An independent generator for the stream ``names`` under ``root``.

    Example:
        >>> bool(stream(0, "order").integers(1000) == stream(0, "order").integers(1000))
        True
        >>> bool(stream(0, "order").integers(2**40) == stream(0, "arrivals").integers(2**40))
        False
    """
    return np.random.default_rng(stream_seed(root, *names))
