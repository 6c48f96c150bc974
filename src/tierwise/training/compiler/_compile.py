"""From a model to an artifact that a node can train."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch

from tierwise._errors import ArtifactError, InputError
from tierwise._units import format_bytes
from tierwise.artifact import (
    Artifact,
    InputEncoding,
    Manifest,
    Optimiser,
    Provenance,
    Segment,
    Trained,
    TrainingPlan,
    TrainingStep,
    write_artifact,
)
from tierwise.capture import read_graph
from tierwise.measure import Progress, Silent
from tierwise.tasks import Task
from tierwise.training._backend import BackendName
from tierwise.training._scheme import Scheme
from tierwise.training._tensor_file import pack
from tierwise.training._verify import relative_error
from tierwise.training.compiler._adapt import adapt
from tierwise.training.compiler._frozen import frozen_apart, without
from tierwise.training.compiler._joint import Joint, capture_step, start_values
from tierwise.training.compiler._model import Model, read_model
from tierwise.training.compiler._onnx import predictor_to_onnx
from tierwise.training.compiler._parts import Parts, are_items_apart, frozen_prefix, plan_parts
from tierwise.training.compiler._passes import macs, simplify
from tierwise.training.compiler._reference import Batch, Eager, mute, run_eager
from tierwise.training.compiler._resolve import resolve
from tierwise.training.compiler._split import Part, divide
from tierwise.training.compiler._trial import packages, tried

__all__ = ["Lesson", "compile_task", "compile_training", "lesson_of"]

_STEP, _PREFIX, _STATE, _VECTORS, _MODEL, _FROZEN, _PREDICTOR = (
    "step.onnx",
    "prefix.onnx",
    "state.safetensors",
    "verify.safetensors",
    "model.onnx",
    "frozen.safetensors",
    "predict.onnx",
)
_REPLAYED = 20


@final
@dataclass(frozen=True)
class Lesson:
    """What shall be compiled, and for whom.

    Attributes:
        name: Of the artifact.
        encoding: What a client sends.
        labels: Class names, or none.
        files: Files that preprocessing needs.
        batches: At least one batch of model inputs by name with its labels, [n] or [n, length], for capture and verify
            vectors.
        task: Name of the task.
        fingerprint: Of the task.
    """

    name: str
    encoding: InputEncoding
    labels: tuple[str, ...]
    files: Mapping[str, bytes]
    batches: Sequence[tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.int64]]]
    task: str
    fingerprint: str = ""


def compile_task(
    task: Task,
    scheme: Scheme,
    optimiser: Optimiser,
    batch: int,
    directory: Path,
    progress: Progress | None = None,
    *,
    most_bytes: float | None = None,
    backend: BackendName = "onnxruntime",
    bit_masks: bool = False,
) -> Artifact:
    """Compile the model of a task with classes; verify vectors are made of items of its train split, labelled wrongly.

    Args:
        task: With a torch model.
        scheme: What is trained.
        optimiser: How.
        batch: Items of a step.
        directory: Of the new artifact.
        progress: Shows the steps.
        most_bytes: As in `compile_training`.
        backend: As in `compile_training`.
        bit_masks: As in `compile_training`.

    Raises:
        InputError: As `compile_training`, or a task without a torch model or without classes.
    """
    progress = progress if progress is not None else Silent()
    if task.model is None or task.boxes is not None:
        raise InputError("a task to train must have a torch model and classes", where=task.name)
    model, lesson = task.model(progress), lesson_of(task, batch)
    return compile_training(
        model,
        lesson,
        scheme,
        optimiser,
        directory,
        progress,
        most_bytes=most_bytes,
        backend=backend,
        bit_masks=bit_masks,
    )


def lesson_of(task: Task, batch: int) -> Lesson:
    """Two batches of a task's train split, and for whom they are."""
    items = task.splits["train"].head(2 * batch)
    chosen = [np.arange(batch) % len(items), np.arange(batch, 2 * batch) % len(items)]
    # Each label is the next class: gradients of what a model knows are rounding, of which Adam makes whole steps.
    wrong = (items.labels.astype(np.int64) + 1) % max(len(task.labels), 1 + int(items.labels.max()))
    batches = [(task.tensors([items.items[int(i)] for i in part]), wrong[part]) for part in chosen]
    return Lesson(task.name, task.encoding, task.labels, task.files, batches, task.name, task.fingerprint)


def compile_training(
    module: torch.nn.Module,
    lesson: Lesson,
    scheme: Scheme,
    optimiser: Optimiser,
    directory: Path,
    progress: Progress | None = None,
    *,
    most_bytes: float | None = None,
    backend: BackendName = "onnxruntime",
    bit_masks: bool = False,
) -> Artifact:
    """Capture, prune, split and export one training step of ``module``, and write it with all that a node needs.

    The model is trained as it answers: batch norms keep their statistics (folded where a convolution stands before
    them) and dropout is off.

    Args:
        module: The model; answers logits [n, classes], or [n, length, vocabulary] for a next token at each place.
        lesson: Data, and for whom.
        scheme: What is trained.
        optimiser: How.
        directory: Of the new artifact.
        progress: Shows the steps.
        most_bytes: Most that a step may take beyond the frozen weights, as predicted.
        backend: What takes the steps on machines like this one that have torch; ``auto``: all are compiled and measured
            here, which takes minutes, and the fastest is kept. The ONNX step is always there.
        bit_masks: Keep what activations leave for the backward pass as bits, in the ONNX step: less memory, more time.

    Raises:
        InputError: The model or its gradient cannot be captured, the plan needs more memory than allowed, or the
            compiled step differs from eager PyTorch.
        SpecError: The scheme does not fit the model.
        UnavailableError: A backend asked for by name that needs a C++ compiler, and there is none.
        ArtifactError: The directory exists.
    """
    progress = progress if progress is not None else Silent()
    if directory.exists():
        raise ArtifactError("the directory of a new artifact must not exist", where=directory)
    batches = [
        (tuple(torch.from_numpy(np.array(a)) for a in x.values()), torch.from_numpy(y)) for x, y in lesson.batches
    ]
    with progress.step("capturing the training step", None):
        taken = _captured(module, lesson, scheme, optimiser, batches)
    model, trained = taken.model, taken.trained
    with progress.step("exporting", None):
        again = partial(frozen_prefix, model, trained, optimiser, batches[0])
        parts = plan_parts(taken.step, taken.prefix, len(batches[0][1]), again, bit_masks=bit_masks)
        spec = _spec(taken, parts, optimiser, scheme, batches[0])
        _fits(spec.plan, most_bytes)
        start = start_values(model, trained)
        predictor = predictor_to_onnx(model, trained, start, [_two(x) for x in batches[0][0]])
        files: dict[str, bytes | Path] = {**_graphs(parts, predictor, trained), **lesson.files}
        files[_STATE] = pack({name: tensor.numpy() for name, tensor in start.items()})
    with progress.step("compiling backends", None):
        made, remarks = packages(taken.joint, taken.prefix, taken.step, backend)
        spec = msgspec.structs.replace(spec, notes=(*spec.notes, *remarks))
    with progress.step("replaying against eager PyTorch", None):
        vectors = _vectors(model, trained, optimiser, lesson, batches)
        eager = partial(Eager(model, trained, optimiser).step, *batches[0])
        doubt = partial(_doubt, vectors, model, trained, optimiser, batches)
        spec, machine_code = tried(spec, files, start, vectors, made, backend, eager, doubt)
        files[_VECTORS] = pack(vectors)
        if spec.packaged is not None and machine_code is not None:
            files[spec.packaged.file] = machine_code
    return write_artifact(directory, _manifest(lesson, _segment(predictor, model), spec), files)


@final
@dataclass(frozen=True)
class _Captured:
    """A model, and one step of it as graphs that nobody has planned yet.

    Attributes:
        model: What was read of the module, adapters included.
        trained: What is trained of it, and changes the loss.
        joint: All of the step.
        prefix: What of it never changes; None: nothing.
        step: The rest.
        notes: Remarks.
    """

    model: Model
    trained: tuple[Trained, ...]
    joint: Joint
    prefix: Part | None
    step: Part
    notes: tuple[str, ...]


def _captured(
    module: torch.nn.Module, lesson: Lesson, scheme: Scheme, optimiser: Optimiser, batches: Sequence[Batch]
) -> _Captured:
    model = read_model(module, {n: _two(torch.from_numpy(np.array(a))) for n, a in lesson.batches[0][0].items()})
    model = adapt(model, scheme.lora)
    trained, notes = _audible(model, resolve(scheme, model), batches[0])
    joint = capture_step(model, trained, optimiser, *batches[0])
    simplify(joint.graph)
    return _Captured(model, trained, joint, *divide(joint), notes)


def _graphs(parts: Parts, predictor: onnx.ModelProto, trained: Sequence[Trained]) -> dict[str, bytes]:
    """The whole model with its weights inside, as any node serves it; what trains has the frozen ones in one file."""
    graphs = {_STEP: onnx.load_from_string(parts.step_plan.content), _PREDICTOR: without(predictor, trained)}
    if parts.prefix_plan is not None:
        graphs[_PREFIX] = onnx.load_from_string(parts.prefix_plan.content)
    files = {_MODEL: predictor.SerializeToString(), _FROZEN: frozen_apart(graphs, _FROZEN)}
    return {**files, **{name: graph.SerializeToString() for name, graph in graphs.items()}}


def _segment(predictor: onnx.ModelProto, model: Model) -> Segment:
    """The whole model; tensors that a caller may override are none of its inputs."""
    graph = read_graph(predictor)
    return Segment(
        file=_MODEL,
        inputs=tuple(graph.tensors[n].spec for n in graph.inputs if n in model.inputs),
        outputs=tuple(graph.tensors[n].spec for n in graph.outputs),
        macs=graph.macs,
    )


def _fits(plan: TrainingPlan, most_bytes: float | None) -> None:
    if most_bytes is not None and plan.needed_bytes > most_bytes:
        raise InputError(
            f"a step must need at most {format_bytes(most_bytes)} beyond the frozen weights",
            got=f"{format_bytes(plan.needed_bytes)}, as predicted for a lean session",
            where="--memory",
            fix="Train fewer layers, take smaller batches or an optimiser with less state",
        )


def _manifest(lesson: Lesson, segment: Segment, spec: TrainingStep) -> Manifest:
    import onnxruntime

    return Manifest(
        name=lesson.name,
        input=lesson.encoding,
        outputs=segment.outputs,
        labels=lesson.labels,
        segments=(segment,),
        files=(),
        provenance=Provenance(
            task=lesson.task,
            task_fingerprint=lesson.fingerprint,
            chain="train-compile",
            specs=(spec.scheme, msgspec.to_builtins(spec.optimiser)),
            versions={"torch": str(torch.__version__), "onnxruntime": onnxruntime.__version__},
            notes=spec.notes,
        ),
        training=spec,
    )


def _two(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if len(tensor) > 1 else torch.cat([tensor, tensor])


def _audible(model: Model, trained: tuple[Trained, ...], batch: Batch) -> tuple[tuple[Trained, ...], tuple[str, ...]]:
    silent = mute(model, trained, batch)
    kept = tuple(one for one in trained if one.name not in silent)
    if not kept:
        raise InputError("something that is trained must change the loss", where="scheme")
    return kept, tuple(f"not trained, since it cannot change the loss: {name}" for name in sorted(silent))


def _vectors(
    model: Model, trained: Sequence[Trained], optimiser: Optimiser, lesson: Lesson, batches: Sequence[Batch]
) -> dict[str, npt.NDArray[Any]]:
    course = run_eager(model, trained, optimiser, batches, _REPLAYED)
    if not np.isfinite(course.losses).all():
        raise InputError(
            "the loss must stay finite in eager PyTorch",
            got=f"{course.losses[-1]} after {_REPLAYED} steps",
            where="optimiser.rate",
            fix="Use a smaller rate",
        )
    made: dict[str, npt.NDArray[Any]] = {"losses": np.array(course.losses, np.float64)}
    made["labels"] = np.stack([y.numpy() for _, y in batches])
    for i, name in enumerate(model.inputs):
        made[f"input.{name}"] = np.stack([x[i].numpy() for x, _ in batches])
    made.update({f"final.{name}": tensor.numpy() for name, tensor in course.finals.items()})
    return made


def _doubt(
    vectors: Mapping[str, npt.NDArray[Any]],
    model: Model,
    trained: Sequence[Trained],
    optimiser: Optimiser,
    batches: Sequence[Batch],
) -> float:
    """How far the same steps of eager PyTorch in double precision are from the vectors, as `relative_error`."""
    course = run_eager(model, trained, optimiser, batches, _REPLAYED, wide=True)
    finals = {name: tensor.numpy() for name, tensor in course.finals.items()}
    return relative_error(finals, {name: vectors[f"final.{name}"] for name in finals})


def _spec(taken: _Captured, parts: Parts, optimiser: Optimiser, scheme: Scheme, batch: Batch) -> TrainingStep:
    joint, trained, prefix, front = taken.joint, taken.trained, parts.prefix, parts.prefix_plan
    inputs, labels = batch
    known = [name for name, kind in zip(joint.names, joint.kinds, strict=True) if kind == "input"]
    state_bytes = sum(4 * int(np.prod(one.shape)) * (1 + optimiser.slots) for one in trained)
    return TrainingStep(
        step=_STEP,
        prefix=None if prefix is None else _PREFIX,
        state=_STATE,
        frozen=_FROZEN,
        predictor=_PREDICTOR,
        vectors=_VECTORS,
        batch=len(labels),
        prefix_items=parts.items,
        classes=joint.classes,
        inputs=() if prefix is None else prefix.inputs,
        border=() if prefix is None else prefix.outputs,
        others=tuple(name for name in parts.step.inputs if name in known),
        scheme=msgspec.to_builtins(scheme),
        trained=trained,
        optimiser=optimiser,
        plan=TrainingPlan(
            predicted_peak_bytes=parts.step_plan.timeline.peak_bytes,
            predicted_traced_peak_bytes=parts.step_plan.exported_peak_bytes,
            predicted_prefix_peak_bytes=0 if front is None else front.timeline.peak_bytes,
            border_bytes=parts.border_bytes,
            state_bytes=state_bytes,
            prefix_macs=0 if prefix is None else macs(prefix.graph) * len(labels) // parts.items,
            step_macs=macs(parts.step.graph),
            measured_step_s=1.0,
            measured_on=platform.processor() or platform.machine(),
        ),
        notes=taken.notes,
        label_shape=tuple(labels.shape[1:]),
        adapters=taken.model.adapters,
        items_apart=are_items_apart(taken.prefix, dict(zip(taken.model.inputs, inputs, strict=True))),
    )
