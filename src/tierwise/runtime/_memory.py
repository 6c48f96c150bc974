"""Memory that this process took and does not need."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable

__all__ = ["give_memory_back"]


def give_memory_back() -> None:
    """What receiving an artifact took goes back to the system; the allocator would keep most of it for this process."""
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """What glibc has for it; others need none. Looked up once: every look-up makes a class, which is slow to go."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
