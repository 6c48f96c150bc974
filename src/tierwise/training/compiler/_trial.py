"""Every backend of a step replayed against eager PyTorch and timed; the fastest is taken."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from tierwise._errors import InputError
from tierwise._units import format_seconds
from tierwise.artifact import PackagedStep, TrainingStep
from tierwise.training._backend import Backend, BackendName, open_backend
from tierwise.training._verify import LARGEST_ERROR, replay
from tierwise.training.compiler._joint import Joint
from tierwise.training.compiler._package import can_package, package
from tierwise.training.compiler._split import Part, whole

__all__ = ["packages", "tried"]

_TIMED = 7
_NO_COMPILER = "backend onnxruntime: machine code was not tried, since there is no C++ compiler"

Package = tuple[PackagedStep, bytes]


def packages(joint: Joint, prefix: Part | None, step: Part, backend: BackendName) -> tuple[list[Package], list[str]]:
    """The step as machine code in the forms that ``backend`` allows, and remarks.

    Where nothing is frozen in front the hybrid has nothing to be one of, and is AOTInductor alone.

    Raises:
        UnavailableError: A form is asked for by name, and there is no C++ compiler.
        InputError: It is asked for by name and cannot be compiled.
    """
    if backend == "onnxruntime":
        return [], []
    if backend == "auto" and not can_package():
        return [], [_NO_COMPILER]
    made: list[Package] = []
    notes: list[str] = []
    if backend in ("auto", "aotinductor") or prefix is None:
        _try(made, notes, whole(joint), "aotinductor", backend)
    if backend in ("auto", "hybrid") and prefix is not None:
        _try(made, notes, step, "hybrid", backend)
    return made, notes


def _try(
    made: list[Package],
    notes: list[str],
    part: Part,
    kind: Literal["aotinductor", "hybrid"],
    wanted: BackendName,
) -> None:
    try:
        made.append(package(part, kind))
    except InputError as error:
        if wanted != "auto":
            raise
        notes.append(f"backend {kind} was not tried: {error}")


def tried(
    spec: TrainingStep,
    files: Mapping[str, bytes | Path],
    start: Mapping[str, torch.Tensor],
    vectors: Mapping[str, Any],
    made: Sequence[Package],
    backend: BackendName,
    doubt: Callable[[], float],
) -> tuple[TrainingStep, bytes | None]:
    """The spec with the chosen backend and its time, and the package where one was chosen.

    All backends take their steps in turn, so that a machine that changes its pace changes it for all.

    Args:
        spec: Of the step in ONNX.
        files: What it needs.
        start: The trained tensors.
        vectors: Verify vectors.
        made: Packages.
        backend: What was asked for.
        doubt: How far eager PyTorch in double precision is from the vectors; asked only for a step that is refused.

    Raises:
        InputError: The ONNX step, or a package that was asked for by name, differs from eager PyTorch.
    """
    state = {one.tensor: start[one.tensor].numpy() for one in spec.trained}
    slots = range(spec.optimiser.slots)
    state.update({one.slot(i): np.zeros_like(state[one.tensor]) for one in spec.trained for i in slots})
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tierwise-train-") as folder:
        engines: dict[BackendName, Backend] = {}
        specs: dict[BackendName, TrainingStep] = {"onnxruntime": spec}
        specs.update({one.backend: msgspec.structs.replace(spec, packaged=one) for one, _ in made})
        contents: dict[BackendName, bytes] = {one.backend: content for one, content in made}
        for name, one in specs.items():
            place = Path(folder) / name
            place.mkdir()
            for file in one.files:
                content = contents[name] if one.packaged and file == one.packaged.file else files.get(file)
                if isinstance(content, bytes):
                    (place / file).write_bytes(content)
            engine, _ = open_backend(place, one, state, 1, name)
            strict = backend != "auto" or name == "onnxruntime"
            problem = _difference(engine, one, vectors, name, doubt if strict else None)
            if problem is None:
                engine.load(state)
                engines[name] = engine
            else:
                notes.append(problem)
        times_s = _timed(engines, spec, vectors)
    chosen = min(times_s, key=times_s.__getitem__) if backend == "auto" or len(times_s) == 1 else _asked(times_s)
    if len(times_s) > 1:
        shown = ", ".join(f"{name} {format_seconds(took_s)}" for name, took_s in times_s.items())
        why = "the fastest" if backend == "auto" else "as asked"
        notes.append(f"backend {chosen}, {why}; median step here, one thread: {shown}")
    plan = msgspec.structs.replace(spec.plan, measured_step_s=times_s[chosen])
    result = msgspec.structs.replace(specs[chosen], plan=plan, notes=(*spec.notes, *notes))
    return result, contents.get(chosen)


def _asked(times_s: Mapping[BackendName, float]) -> BackendName:
    return next(name for name in times_s if name != "onnxruntime")


def _difference(
    engine: Backend,
    spec: TrainingStep,
    vectors: Mapping[str, Any],
    name: BackendName,
    doubt: Callable[[], float] | None,
) -> str | None:
    """What is wrong with a backend; where ``doubt`` is given, that is an error."""
    found = replay(engine, spec, dict(vectors))
    if found.equal:
        return None
    got = f"losses off by {found.loss_error:.1e}, weights by {found.weight_error:.1e}"
    if doubt is None:
        return f"backend {name} was not taken: it differs from eager PyTorch ({got})"
    rounding = doubt()
    fix = "Freeze more layers to find the one that differs; nothing was written"
    if rounding > LARGEST_ERROR:
        # Not a reason to let the step pass: a wrong one would look the same.
        got += f"; eager PyTorch in float64 is off by {rounding:.1e}, so rounding alone can be the cause"
        fix = "Compile at a smaller rate and train at this one; nothing was written"
    raise InputError(
        "the compiled step must do what eager PyTorch does (1e-5 relative)",
        got=got,
        where="ONNX Runtime" if name == "onnxruntime" else name,
        fix=fix,
    )


def _timed(
    engines: Mapping[BackendName, Backend], spec: TrainingStep, vectors: Mapping[str, Any]
) -> dict[BackendName, float]:
    """Median wall time of a step of each."""
    batch = {name.removeprefix("input."): vectors[name][0] for name in vectors if name.startswith("input.")}
    times: dict[BackendName, list[float]] = {name: [] for name in engines}
    for i in range(_TIMED):
        for name, engine in engines.items():
            before_s = time.perf_counter()
            engine.step(batch, vectors["labels"][0], spec.optimiser.scalar_values(i + 1, spec.optimiser.rate))
            times[name].append(time.perf_counter() - before_s)
    return {name: statistics.median(took) for name, took in times.items()}
