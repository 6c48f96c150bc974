"""The frozen part in front of a step, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError
from tierwise.artifact import TrainingStep
from tierwise.training._feature_cache import FeatureCache
from tierwise.training._frozen import Frozen
from tierwise.training._onnx_session import open_session
from tierwise.training._tensor_file import Arrays

__all__ = ["Prefix"]

_TYPES = {
    "tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_, "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8, "tensor(double)": np.float64,
}  # fmt: skip


@final
class Prefix:
    """From the model's inputs to what the step takes of them, into the same arrays every time.

    Args:
        path: The graph, for a part of a batch or all of it.
        spec: What it takes and gives.
        threads: Threads of the session.
        lean: Run the planned order in the least memory.
        frozen: Its weights, mapped; None: the session reads them for itself.
        cache_bytes: Most that the features of items may take that need not be computed again.
        whole: Shapes that the step wants, by name; None: each tensor of a part that begins with its items is of items.

    Raises:
        ArtifactError: The file cannot be loaded, or gives tensors of a type that no step takes.
    """

    def __init__(
        self,
        path: Path,
        spec: TrainingStep,
        threads: int,
        *,
        lean: bool = False,
        frozen: Frozen | None = None,
        cache_bytes: int = 0,
        whole: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._session, self._spec = open_session(path, threads, planned=lean, frozen=frozen), spec
        self._border: Arrays = {}
        for value in self._session.get_outputs():
            if value.type not in _TYPES:
                raise ArtifactError(f"a frozen part must give one of {', '.join(_TYPES)}", got=value.type, where=path)
            shape = list(value.shape)
            if shape[:1] == [spec.prefix_items]:
                shape[0] = spec.batch
            self._border[value.name] = np.empty(shape if whole is None else whole[value.name], _TYPES[value.type])
        # What is the same in all parts of a batch has the shape that it has in one.
        made = {value.name: tuple(value.shape) for value in self._session.get_outputs()}
        self._parted = {name for name, array in self._border.items() if array.shape != made[name]}
        # A row for each item, over the same memory.
        self._rows = {name: array.reshape(spec.batch, -1) for name, array in self._border.items() if self._apart}
        self._cache = FeatureCache(self._rows, cache_bytes if self._apart else 0)

    @property
    def _apart(self) -> bool:
        return self._spec.items_apart or self._spec.batch == 1

    def knows(self, items: Sequence[int]) -> bool:
        """Whether nothing needs to be computed for a batch of ``items``."""
        return self._cache.knows(items)

    def __call__(self, inputs: Mapping[str, npt.NDArray[Any]], items: Sequence[int] | None = None) -> Arrays:
        """What the step takes, by name; good until the next call.

        Args:
            inputs: Of the model, by name; not read where all items are known.
            items: A number for each item of the batch, by which it is known again.
        """
        count = self._spec.prefix_items
        for first in range(0, self._spec.batch, count):
            chosen = slice(first, first + count)
            rows = {name: array[chosen] for name, array in self._rows.items()}
            named = None if items is None else items[chosen]
            if named is not None and self._cache.knows(named):
                self._cache.take(named, rows)
                continue
            part = {n: a[chosen] if n in self._parted else a for n, a in self._border.items()}
            self._run({name: inputs[name][chosen] for name in self._spec.inputs}, part)
            if named is not None:
                self._cache.put(named, rows)
        return self._border

    def _run(self, inputs: Mapping[str, npt.NDArray[Any]], into: Mapping[str, npt.NDArray[Any]]) -> None:
        binding = self._session.io_binding()
        # A binding does not keep its arrays alive, so they have a name here until the run is done.
        held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in held.items():
            binding.bind_cpu_input(name, array)
        for name, array in into.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        self._session.run_with_iobinding(binding)
