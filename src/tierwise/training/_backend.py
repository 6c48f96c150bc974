"""What runs a compiled step, whichever engine it is."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy.typing as npt

from tierwise._errors import UnavailableError
from tierwise.artifact import TrainingStep
from tierwise.training._apart import Apart, Backend
from tierwise.training._engine import Engine
from tierwise.training._processor import processor_name

__all__ = ["Backend", "BackendName", "misfit", "open_backend"]

BackendName = Literal["auto", "onnxruntime", "aotinductor", "hybrid"]


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
) -> tuple[Backend, str]:
    """The engine of a step and its name.

    Args:
        folder: Where the files lie.
        spec: What they are.
        state: All trained tensors and slots at the start.
        threads: Threads of the engine.
        wanted: ``auto``: what the compiler chose where this machine can run it, else ONNX Runtime.
        lean: In the least memory, which is ONNX Runtime.

    Raises:
        ArtifactError: A file cannot be loaded.
        UnavailableError: What is wanted by name cannot run here.
    """
    why = "the leanest step is that of ONNX Runtime" if lean else misfit(spec)
    packaged = None if spec.packaged is None else spec.packaged.backend
    if wanted == "onnxruntime" or (wanted == "auto" and (why is not None or packaged is None)):
        return Apart(lambda: Engine(folder, spec, state, threads, lean=lean)), "onnxruntime"
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
    return Apart(lambda: cast(Backend, room.PackagedEngine(folder, spec, state, threads))), str(packaged)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # what stands in sys.modules without a spec, None for one, cannot be imported either
        return False
