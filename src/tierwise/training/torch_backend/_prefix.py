"""The frozen part in front of a step, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError
from tierwise.artifact import TrainingStep
from tierwise.training._engine import open_session
from tierwise.training._tensor_file import Arrays

__all__ = ["Prefix"]

_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_, "tensor(int32)": np.int32}


@final
class Prefix:
    """From the model's inputs to what the step takes of them, into the same arrays every time.

    Args:
        path: The graph, for a part of a batch or all of it.
        spec: What it takes and gives.
        threads: Threads of the session.

    Raises:
        ArtifactError: The file cannot be loaded, or gives tensors of a type that no step takes.
    """

    def __init__(self, path: Path, spec: TrainingStep, threads: int) -> None:
        self._session, self._spec = open_session(path, threads), spec
        self._border: Arrays = {}
        for value in self._session.get_outputs():
            if value.type not in _TYPES:
                raise ArtifactError(f"a frozen part must give one of {', '.join(_TYPES)}", got=value.type, where=path)
            shape = list(value.shape)
            if shape[:1] == [spec.prefix_items]:
                shape[0] = spec.batch
            self._border[value.name] = np.empty(shape, _TYPES[value.type])

    def __call__(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """What the step takes, by name; good until the next call."""
        binding, items = self._session.io_binding(), self._spec.prefix_items
        held = {name: np.ascontiguousarray(inputs[name]) for name in self._spec.inputs}
        for first in range(0, self._spec.batch, items):
            for name, array in held.items():
                binding.bind_cpu_input(name, array[first : first + items])
            for name, array in self._border.items():
                part = array[first : first + items] if len(array) == self._spec.batch else array
                binding.bind_output(name, "cpu", 0, array.dtype.type, list(part.shape), part.ctypes.data)
            self._session.run_with_iobinding(binding)
        return self._border
