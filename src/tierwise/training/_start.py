"""The state before the first step, and memory that opening a session took."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise.artifact import TrainingStep
from tierwise.training._tensor_file import TensorFile

__all__ = ["Start", "give_back"]


@final
class Start(Mapping[str, npt.NDArray[Any]]):
    """Trained tensors as they were compiled, and slots of zeros; each is read anew when it is asked for.

    Args:
        path: File of the trained tensors at the start.
        spec: What is trained, and how.
    """

    def __init__(self, path: Path, spec: TrainingStep) -> None:
        self._file, slots = TensorFile(path), range(spec.optimiser.slots)
        self._shapes = {one.slot(i): one.shape for one in spec.trained for i in slots}
        self._names = (*(one.tensor for one in spec.trained), *self._shapes)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A new array."""
        return np.zeros(self._shapes[name], np.float32) if name in self._shapes else self._file[name]

    def __iter__(self) -> Iterator[str]:
        """Names in the graphs."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


def give_back() -> None:
    """Return to the system what malloc keeps of memory that is free: parsed graphs, tensors that were read."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other C libraries keep less
    if trim is not None:
        trim(0)
