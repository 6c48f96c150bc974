"""From a task and a chain to an artifact, each prefix of a chain built once."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx

from tierwise._errors import ArtifactError, InputError
from tierwise.artifact import (
    Artifact,
    Exit,
    Manifest,
    Provenance,
    Segment,
    detections_spec,
    open_artifact,
    write_artifact,
)
from tierwise.capture import export, load_onnx, read_graph
from tierwise.measure import Progress, Silent
from tierwise.operators._apply import apply, resolve
from tierwise.operators._coverage import audit_coverage
from tierwise.operators._crossing import TABLES, to_boundary
from tierwise.operators._exit import exit_names
from tierwise.operators._spec import OperatorSpec, chain_text, check_chain
from tierwise.operators._store import address, load_stage, save_stage, scratch, sweep, versions
from tierwise.operators._weights import weight_bits
from tierwise.operators._work import ChooseCuts, Context, Stage, Work
from tierwise.tasks import Task

__all__ = ["build"]

_EXPORT_PACKAGES = ("onnx", "onnxscript", "torch")
_ALL_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")
# Raised when the export or the artifact's layout change their results.
_REVISION = 1


def build(
    task: Task,
    chain: Sequence[OperatorSpec],
    cache: Path,
    progress: Progress | None = None,
    choose_cuts: ChooseCuts | None = None,
) -> Artifact:
    """The artifact that ``chain`` makes of ``task``, built or found.

    Everything lies under ``cache``: ``stages/`` holds the model after each prefix of a chain, ``artifacts/`` what can
    be deployed. Their names are hashes of the task's fingerprint, the resolved specs and the versions that took part,
    so that equal requests share work, also between processes. A build that is killed leaves nothing but a temporary
    folder, which the next build removes, and the last epoch of a training, from which the next build goes on.

    Args:
        task: What to deploy.
        chain: Operators in order (`parse_chain`).
        cache: Folder to build in; made where it does not exist.
        progress: Where to say how far it is.
        choose_cuts: Picks the cuts of a partition with ``cut = "auto"``; it gets what `partition_cuts` found and
            how many are wanted.

    Raises:
        ChainError: The chain is illegal; nothing was done.
        InputError: An operator cannot work on this task's model, or the model cannot be exported.
    """
    check_chain(chain, task)
    progress = progress or Silent()
    sweep(cache)
    name, work = _root(task, cache, progress)
    for spec in chain:
        with scratch(cache) as folder:
            asked = cache / "resolved" / address(name, spec, spec.PACKAGES, spec.REVISION)
            context = Context(folder=folder, progress=progress, choose_cuts=choose_cuts, keep=asked)
            spec = resolve(spec, work, context)
            name = address(name, spec, spec.PACKAGES, spec.REVISION)
            stage = cache / "stages" / name
            done = load_stage(stage, task)
            if done is None:
                keep = cache / "training" / name
                done = apply(spec, work, dataclasses.replace(context, keep=keep))
                save_stage(stage, done, folder)
                shutil.rmtree(keep, ignore_errors=True)
            work = done
    title = f"{task.name}-{chain_text(chain)}".replace("+", "-")
    directory = cache / "artifacts" / f"{title}-{address(name, title, ('onnxruntime',), _REVISION)[:16]}"
    if not directory.exists():
        with progress.step(f"write {title}", None):
            return _write(directory, title, work)
    return open_artifact(directory)


def _root(task: Task, cache: Path, progress: Progress) -> tuple[str, Work]:
    """The model as it came: exported from torch, or read from its ONNX file."""
    name = address(task.fingerprint, "export", _EXPORT_PACKAGES, _REVISION)
    stage = cache / "stages" / name
    work = load_stage(stage, task)
    if work is None:
        model = _whole_model(task, progress)
        work = Work(task=task, model=model, module=task.model)
        with scratch(cache) as folder:
            save_stage(stage, work, folder)
    return name, work


def _whole_model(task: Task, progress: Progress) -> onnx.ModelProto:
    if task.model is not None:
        module = task.model(progress)
        with progress.step("export to ONNX", None):
            return export(module, task.example(), task.outputs)
    if task.onnx is not None:
        return load_onnx(task.onnx)
    raise InputError("a task must have a torch model or an ONNX file", where=f"task {task.name!r}")


def _write(directory: Path, title: str, work: Work) -> Artifact:
    task = work.task
    parts = dict(_files(work))
    graphs = [read_graph(part) for part in parts.values()]
    segments = tuple(
        Segment(
            file=file,
            inputs=tuple(graph.tensors[name].spec for name in graph.inputs),
            outputs=tuple(graph.tensors[name].spec for name in graph.outputs),
            macs=graph.macs,
            exit=_exit(work, position),
            boundary=to_boundary(work.crossing, work.segments[0]) if work.crossing and position == 0 else None,
            weight_bits=weight_bits(parts[file]),
        )
        for position, (file, graph) in enumerate(zip(parts, graphs, strict=True))
    )
    quantised = any(spec.STAGE is Stage.QUANTISE for spec in work.history)
    manifest = Manifest(
        name=title,
        input=task.encoding,
        outputs=segments[-1].outputs if task.boxes is None else (detections_spec(task.boxes),),
        labels=task.labels,
        segments=segments,
        files=(),
        provenance=Provenance(
            task=task.name,
            task_fingerprint=task.fingerprint,
            chain=chain_text(work.history),
            specs=tuple(msgspec.to_builtins(spec) for spec in work.history),
            versions=versions(_ALL_PACKAGES),
            composition_error=work.composition_error,
            notes=work.notes,
            training_s=work.training_s,
        ),
        coverage=audit_coverage(list(parts.values())) if quantised else None,
        boxes=msgspec.UNSET if task.boxes is None else task.boxes,
    )
    files: dict[str, bytes | Path] = {file: part.SerializeToString() for file, part in parts.items()}
    files.update(task.files)
    if work.crossing is not None:
        files[TABLES] = work.crossing.tables
    try:
        return write_artifact(directory, manifest, files)
    except ArtifactError:
        # Another process wrote the same content first.
        if directory.exists():
            return open_artifact(directory)
        raise


def _exit(work: Work, position: int) -> Exit | None:
    if position >= len(work.exits):
        return None
    confidence, answer = exit_names(position)
    one = work.exits[position]
    answers = {work.model.graph.output[0].name: answer}
    return Exit(confidence=confidence, threshold=one.threshold, answers=answers, left_frac=one.left_frac)


def _files(work: Work) -> list[tuple[str, onnx.ModelProto]]:
    if not work.segments:
        return [("model.onnx", work.model)]
    return [(f"segment{i}.onnx", segment) for i, segment in enumerate(work.segments)]
