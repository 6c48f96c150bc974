"""Intermediate results on disk: one folder per prefix of a chain, named by all that decides its content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path

import msgspec
import onnx

from tierwise import __version__
from tierwise._errors import StoreError
from tierwise.artifact import Filtering
from tierwise.operators._blueprint import Blueprint, kept_module, save_module
from tierwise.operators._crossing import Crossing
from tierwise.operators._exit import ExitHead
from tierwise.operators._spec import OperatorSpec
from tierwise.operators._work import Stage, Work
from tierwise.tasks import Task

__all__ = ["address", "load_stage", "save_stage", "scratch", "sweep", "versions"]

_RECORD = "work.json"
_WEIGHTS = "module.safetensors"


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    history: tuple[OperatorSpec, ...]
    notes: tuple[str, ...]
    training_s: float
    composition_error: float | None
    segments: int
    blueprint: Blueprint | None = None
    exits: tuple[tuple[str, float, float], ...] = ()
    exits_left_frac: tuple[float | None, ...] = ()
    exits_filtering: tuple[Filtering | None, ...] = ()
    crossing: Crossing | None = None


def address(before: str, what: object, packages: Sequence[str], revision: int) -> str:
    """The name of what comes of applying ``what`` to the content named ``before``, with these packages.

    Args:
        before: Address of the input.
        what: The step, as anything msgspec can encode.
        packages: Distributions whose version decides the result.
        revision: Version of our own code for the step; raised when its results change.
    """
    content = [before, msgspec.to_builtins(what), versions(packages), revision]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed version of each distribution, Tierwise's own included."""
    found = {"tierwise": __version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def load_stage(folder: Path, task: Task) -> Work | None:
    """The work saved in ``folder``; None where nothing was."""
    if not folder.exists():
        return None
    try:
        record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=_Record)
        model = onnx.load(folder / "model.onnx")
        segments = tuple(onnx.load(folder / f"segment{i}.onnx") for i in range(record.segments))
        exits = tuple(
            ExitHead(cut, onnx.load(folder / f"exit{i}.onnx"), threshold, drop, left, filtering)
            for i, ((cut, threshold, drop), left, filtering) in enumerate(
                zip_longest(record.exits, record.exits_left_frac, record.exits_filtering)
            )
        )
    except Exception as error:  # protobuf, msgspec and the file system raise unrelated errors
        raise StoreError(
            f"an intermediate result must be readable ({error})",
            where=folder,
            fix="Delete that folder; it is built again",
        ) from error
    return Work(
        task=task,
        model=model,
        module=kept_module(task, record.blueprint, folder / _WEIGHTS),
        blueprint=record.blueprint,
        segments=segments,
        history=record.history,
        notes=record.notes,
        training_s=record.training_s,
        composition_error=record.composition_error,
        exits=exits,
        crossing=record.crossing,
    )


def save_stage(folder: Path, work: Work, temporary: Path) -> None:
    """Write ``work`` to ``folder`` in one step: others see all of it or nothing.

    A folder that appeared meanwhile holds the same by its name, and stays.
    """
    stage = temporary / "stage"
    stage.mkdir()
    onnx.save(work.model, stage / "model.onnx")
    for i, segment in enumerate(work.segments):
        onnx.save(segment, stage / f"segment{i}.onnx")
    for i, one in enumerate(work.exits):
        onnx.save(one.head, stage / f"exit{i}.onnx")
    if work.blueprint is not None and work.history[-1].STAGE is Stage.TRAIN:
        save_module(work, stage / _WEIGHTS)
    record = _Record(
        history=work.history,
        notes=work.notes,
        training_s=work.training_s,
        composition_error=work.composition_error,
        segments=len(work.segments),
        blueprint=work.blueprint,
        exits=tuple((one.cut, one.threshold, one.max_drop_frac) for one in work.exits),
        exits_left_frac=tuple(one.left_frac for one in work.exits),
        exits_filtering=tuple(one.filtering for one in work.exits),
        crossing=work.crossing,
    )
    (stage / _RECORD).write_bytes(msgspec.json.encode(record))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        stage.rename(folder)
    except OSError:
        if not folder.exists():
            raise


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A fresh folder on the cache's own file system, removed at the end."""
    parent = cache / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(cache: Path) -> None:
    """Remove temporary folders of processes that were killed."""
    for folder in (cache / "tmp").glob("*-*"):
        owner = folder.name.partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
