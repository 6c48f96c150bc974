"""Every backend of a step replayed against eager PyTorch and timed; the fastest is taken."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
_SLOWER = 1.05
"""Less is within what such a short timing can tell."""
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
    eager: Callable[[], object],
    doubt: Callable[[], float],
) -> tuple[TrainingStep, bytes | None]:
    """The spec with the chosen backend and its time, and the package where one was chosen.

    All backends take their steps in turn, so that a machine that changes its pace changes it for all. Eager PyTorch
    takes part, and a step that is slower says so in its notes: where torch is at hand, it should not be taken.

    Args:
        spec: Of the step in ONNX.
        files: What it needs.
        start: The trained tensors.
        vectors: Verify vectors.
        made: Packages.
        backend: What was asked for.
        eager: Takes the same step in eager PyTorch.
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
            held = {**files, one.packaged.file: contents[name]} if one.packaged else files
            for file in one.files:
                content = held.get(file)
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
        times_s, eager_s = _timed(engines, spec, vectors, eager)
    chosen = min(times_s, key=times_s.__getitem__) if backend == "auto" or len(times_s) == 1 else _asked(times_s)
    notes += [*_chosen(chosen, times_s, backend), *_slower(times_s[chosen], eager_s)]
    plan = msgspec.structs.replace(spec.plan, measured_step_s=times_s[chosen], eager_step_s=eager_s)
    result = msgspec.structs.replace(specs[chosen], plan=plan, notes=(*spec.notes, *notes))
    return result, contents.get(chosen)


def _chosen(chosen: BackendName, times_s: Mapping[BackendName, float], backend: BackendName) -> list[str]:
    if len(times_s) == 1:
        return []
    shown = ", ".join(f"{name} {format_seconds(took_s)}" for name, took_s in times_s.items())
    why = "the fastest" if backend == "auto" else "as asked"
    return [f"backend {chosen}, {why}; median step here, one thread: {shown}"]


def _slower(step_s: float, eager_s: float) -> list[str]:
    if step_s <= _SLOWER * eager_s:
        return []
    took = f"{format_seconds(step_s)} a step, {format_seconds(eager_s)} there"
    return [f"slower than eager PyTorch with the same scheme on this machine: {took}; freeze more of the model"]


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
    engines: Mapping[BackendName, Backend],
    spec: TrainingStep,
    vectors: Mapping[str, Any],
    eager: Callable[[], object],
) -> tuple[dict[BackendName, float], float]:
    """Median CPU time of a step of each, and of eager PyTorch, with one thread: what else runs is not in it."""
    batch = {name.removeprefix("input."): vectors[name][0] for name in vectors if name.startswith("input.")}
    times: dict[BackendName, list[float]] = {name: [] for name in engines}
    eager_s, before = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for i in range(_TIMED):
            scalars = spec.optimiser.scalar_values(i + 1, spec.optimiser.rate)
            for name, engine in engines.items():
                times[name].append(_seconds(partial(engine.step, batch, vectors["labels"][0], scalars)))
            eager_s.append(_seconds(eager))
    finally:
        torch.set_num_threads(before)
    return {name: statistics.median(took) for name, took in times.items()}, statistics.median(eager_s)


def _seconds(act: Callable[[], object]) -> float:
    before_s = time.process_time()
    act()
    return time.process_time() - before_s
