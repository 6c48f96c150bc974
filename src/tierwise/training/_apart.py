"""One thread for the engines of training: flushing denormals is a mode of a thread, which stays with it.

In a caller's thread, smallest numbers would be zeros from then on, and a bound "above 0" would let zero pass.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["apart"]

T = TypeVar("T")

# One for the process: ONNX Runtime flushes denormals in the thread that opens its first session, and in no other.
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tierwise-training")


def apart(work: Callable[[], T]) -> T:
    """What ``work`` gives back, done in that thread."""
    return _THREAD.submit(work).result()
