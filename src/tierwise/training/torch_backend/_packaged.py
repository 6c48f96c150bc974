"""A step of machine code: torch's kernels and loops of its own, no interpreter and no autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from tierwise._errors import ArtifactError, InputError, TierwiseError
from tierwise.artifact import TrainingStep
from tierwise.training._prefix import Prefix
from tierwise.training._tensor_file import Arrays

__all__ = ["PackagedEngine"]


@final
class PackagedEngine:
    """The package, the frozen prefix in ONNX Runtime where the package begins behind it, and the state.

    The package gives the next state as new tensors and changes none that it is given: a step that fails has changed
    nothing. Denormals are flushed to zero on the thread that opens it, and torch's threads are set for the process.

    Args:
        folder: Where the files lie.
        spec: What they are; with a packaged step.
        state: All trained tensors and slots by their names in the graphs.
        threads: Threads of both engines.
        cache_bytes: Most that features may take, see `Prefix`; a package without one in front keeps none.

    Raises:
        ArtifactError: A file cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        spec: TrainingStep,
        state: Mapping[str, npt.NDArray[Any]],
        threads: int,
        cache_bytes: int = 0,
    ) -> None:
        if spec.packaged is None:
            raise ArtifactError("the artifact must hold a packaged step", where=folder)
        self._spec, self._package = spec, spec.packaged
        hybrid = self._package.backend == "hybrid" and spec.prefix is not None
        self._prefix: Prefix | None = None
        if hybrid:
            self._prefix = Prefix(folder / str(spec.prefix), spec, threads, cache_bytes=cache_bytes)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        try:
            self._run: Any = torch._inductor.aoti_load_package(str(folder / self._package.file))
        except Exception as error:  # the loader raises what unpacking, linking and torch raise
            raise ArtifactError(
                f"torch must be able to load the packaged step ({str(error).splitlines()[0][:300]})",
                where=folder / self._package.file,
                fix="Use --backend onnxruntime, or compile it on this machine",
            ) from error
        self._now = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}

    def knows(self, items: Sequence[int]) -> bool:
        """See `Backend.knows`."""
        return self._prefix is not None and self._prefix.knows(items)

    def step(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[np.int64],
        scalars: tuple[float, ...],
        items: Sequence[int] | None = None,
    ) -> float:
        """One step; the loss before it.

        Raises:
            InputError: The loss is not a finite number; the state is as it was.
            TierwiseError: The package failed; the state is as it was.
        """
        named = zip(self._spec.optimiser.scalars, scalars, strict=True)
        fed: dict[str, Any] = {**inputs, "labels": labels, **{n: np.array(value, np.float32) for n, value in named}}
        try:
            fed.update({} if self._prefix is None else self._prefix(inputs, items))
            given = [
                self._now[name]
                if name in self._now
                else torch.from_numpy(np.require(fed[name], requirements=["C", "W"]))
                for name in self._package.inputs
            ]
            loss, *after = self._run(*given)
        except Exception as error:  # as in loading
            raise TierwiseError(
                f"the packaged step must run ({str(error).splitlines()[0][:300]})", where=self._package.file
            ) from error
        value = float(loss)
        if not np.isfinite(value):
            raise InputError("the loss must stay finite", got=value, fix="Use a smaller rate; the state is as before")
        self._now = dict(zip(self._package.state, after, strict=True))
        return value

    def state(self) -> Arrays:
        """A copy of all trained tensors and slots."""
        return {name: np.array(tensor.numpy()) for name, tensor in self._now.items()}

    def trained(self) -> dict[str, Any]:
        """The trained tensors as ONNX Runtime's values over torch's memory, by name, until the next step."""
        import onnxruntime as ort

        names = [one.tensor for one in self._spec.trained]
        return {name: ort.OrtValue.ortvalue_from_numpy(self._now[name].contiguous().numpy()) for name in names}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace the state.

        Raises:
            InputError: A tensor is missing, one too many, or of another shape.
        """
        for name, tensor in self._now.items():
            if name not in state or state[name].shape != tuple(tensor.shape):
                raise InputError("the state must hold this tensor in its shape", got=sorted(state)[:4], where=name)
        if len(state) != len(self._now):
            raise InputError(f"the state must hold {len(self._now)} tensors", got=len(state))
        self._now = {name: torch.from_numpy(np.array(state[name], np.float32)) for name in self._now}
