"""One thread for the engines of training: flushing denormals is a mode of a thread, which stays with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, final

import numpy as np
import numpy.typing as npt

from tierwise.training._tensor_file import Arrays

__all__ = ["Apart", "Backend", "apart"]

T = TypeVar("T")

# One for the process: ONNX Runtime flushes denormals in the thread that opens its first session, and in no other.
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tierwise-training")


class Backend(Protocol):
    """Takes steps on a state of its own. A step that raises has changed nothing."""

    def step(
        self, inputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[np.int64], scalars: tuple[float, ...]
    ) -> float:
        """One step; the loss before it.

        Args:
            inputs: Model inputs by name.
            labels: Classes, [n].
            scalars: What `tierwise.artifact.Optimiser.scalar_values` says.

        Raises:
            InputError: The loss is not a finite number.
            TierwiseError: The engine failed.
        """

    def state(self) -> Arrays:
        """A copy of all trained tensors and slots, by their names in the graphs."""

    def trained(self) -> dict[str, Any]:
        """The trained tensors as ONNX Runtime's values over the memory they lie in, by name, until the next step."""

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace the state.

        Raises:
            InputError: A tensor is missing, one too many, or of another shape.
        """


def apart(work: Callable[[], T]) -> T:
    """What ``work`` gives back, done in that thread."""
    return _THREAD.submit(work).result()


@final
class Apart:
    """A backend that is made and takes its steps in that thread.

    In the caller's, smallest numbers would be zeros from then on, and a bound "above 0" would let zero pass.

    Args:
        make: Opens the backend.
    """

    def __init__(self, make: Callable[[], Backend]) -> None:
        self._backend = apart(make)

    def step(
        self, inputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[np.int64], scalars: tuple[float, ...]
    ) -> float:
        """See `Backend.step`."""
        return apart(functools.partial(self._backend.step, inputs, labels, scalars))

    def state(self) -> Arrays:
        """See `Backend.state`."""
        return self._backend.state()

    def trained(self) -> dict[str, Any]:
        """See `Backend.trained`."""
        return self._backend.trained()

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `Backend.load`."""
        self._backend.load(state)
