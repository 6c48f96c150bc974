"""What runs a compiled step, whichever engine it is."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import UnavailableError
from tierwise.artifact import TrainingStep
from tierwise.training._apart import apart
from tierwise.training._engine import Engine
from tierwise.training._frozen import Frozen
from tierwise.training._processor import processor_name
from tierwise.training._tensor_file import Arrays

__all__ = ["Backend", "BackendName", "misfit", "open_backend"]

BackendName = Literal["auto", "onnxruntime", "aotinductor", "hybrid"]


class Backend(Protocol):
    """Takes steps on a state of its own. A step that raises has changed nothing."""

    def knows(self, items: Sequence[int]) -> bool:
        """Whether what is frozen was computed for all of ``items`` and kept, so that it reads no inputs for them."""

    def step(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[np.int64],
        scalars: tuple[float, ...],
        items: Sequence[int] | None = None,
    ) -> float:
        """One step; the loss before it.

        Args:
            inputs: Model inputs by name.
            labels: Classes, [n].
            scalars: What `tierwise.artifact.Optimiser.scalar_values` says.
            items: A number for each item, by which it is known when it comes again; None: items do not come again.

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


def misfit(spec: TrainingStep) -> str | None:
    """Why this machine cannot run the packaged step of ``spec``; None: it can.

    The package is machine code for one processor, and it calls one version of torch. Another processor may lack an
    instruction, which would end the process: so the names are compared before anything is loaded.
    """
    if spec.packaged is None:
        return "the artifact holds no packaged step"
    if not _installed("torch"):
        return "torch is not installed"
    from importlib.metadata import version

    if version("torch") != spec.packaged.torch:
        return f"it was compiled with torch {spec.packaged.torch}, and here is {version('torch')}"
    if processor_name() != spec.packaged.processor:
        return f"it was compiled for {spec.packaged.processor}, and this is {processor_name()}"
    return None


def open_backend(
    folder: Path,
    spec: TrainingStep,
    state: Mapping[str, npt.NDArray[Any]],
    threads: int,
    wanted: BackendName = "auto",
    *,
    lean: bool = False,
    frozen: Frozen | None = None,
    cache_bytes: int = 0,
) -> tuple[Backend, str]:
    """The engine of a step and its name.

    Args:
        folder: Where the files lie.
        spec: What they are.
        state: All trained tensors and slots at the start.
        threads: Threads of the engine.
        wanted: ``auto``: what the compiler chose where this machine can run it, else ONNX Runtime.
        lean: In the least memory, which is ONNX Runtime.
        frozen: The frozen weights, mapped, for ONNX Runtime.
        cache_bytes: Most that features of items may take, so that what is frozen is not computed for them again.

    Raises:
        ArtifactError: A file cannot be loaded.
        UnavailableError: What is wanted by name cannot run here.
    """
    why = "the leanest step is that of ONNX Runtime" if lean else misfit(spec)
    packaged = None if spec.packaged is None else spec.packaged.backend
    if wanted == "onnxruntime" or (wanted == "auto" and (why is not None or packaged is None)):
        engine = functools.partial(Engine, lean=lean, frozen=frozen, cache_bytes=cache_bytes)
        return _Apart(lambda: engine(folder, spec, state, threads)), "onnxruntime"
    if why is None and wanted not in ("auto", packaged):
        why = f"the artifact's packaged step is for {packaged}"
    if why is not None:
        raise UnavailableError(
            f"the step's backend must be able to run here: torch of the compiler's version on its processor ({why})",
            got=wanted,
            where=folder,
            fix="Use --backend onnxruntime: every artifact holds that step too; or compile it here",
        )
    # By its name alone: this half of the room must not import what imports torch.
    room = importlib.import_module("tierwise.training.torch_backend")
    return _Apart(lambda: cast(Backend, room.PackagedEngine(folder, spec, state, threads, cache_bytes))), str(packaged)


@final
class _Apart:
    """A backend that is made and takes its steps in the thread of `apart`.

    Args:
        make: Opens the backend.
    """

    def __init__(self, make: Callable[[], Backend]) -> None:
        self._backend = apart(make)

    def knows(self, items: Sequence[int]) -> bool:
        """See `Backend.knows`."""
        return self._backend.knows(items)

    def step(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[np.int64],
        scalars: tuple[float, ...],
        items: Sequence[int] | None = None,
    ) -> float:
        """See `Backend.step`."""
        return apart(functools.partial(self._backend.step, inputs, labels, scalars, items))

    def state(self) -> Arrays:
        """See `Backend.state`."""
        return self._backend.state()

    def trained(self) -> dict[str, Any]:
        """See `Backend.trained`."""
        return self._backend.trained()

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `Backend.load`."""
        self._backend.load(state)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # what stands in sys.modules without a spec, None for one, cannot be imported either
        return False
