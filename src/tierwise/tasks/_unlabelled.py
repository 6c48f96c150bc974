"""Pictures without labels, for training that compares a model with itself."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from tierwise._config import Spec
from tierwise._errors import InputError, SpecError
from tierwise.artifact import ImageInput
from tierwise.tasks._task import Split, Task, item_digest

__all__ = ["Unlabelled", "hashed", "with_unlabelled"]

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class Unlabelled(Spec, frozen=True, kw_only=True):
    """A folder of pictures that nobody labelled.

    Attributes:
        folder: Its pictures, those in folders below it included.
        sha256: Of their content, in the order of their names; filled in when they are read.
    """

    folder: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None


def hashed(spec: Unlabelled) -> Unlabelled:
    """``spec`` with the hash of what is in its folder.

    Raises:
        SpecError: The folder holds no pictures, or others than ``sha256`` says.
    """
    return msgspec.structs.replace(spec, sha256=_digest(spec, _contents(spec)))


def with_unlabelled(task: Task, spec: Unlabelled) -> Task:
    """``task`` with the pictures of ``spec`` behind those of its train split, for losses that ask for no label.

    Their labels say nothing: class -1, for detection no boxes.

    Raises:
        InputError: The task does not take encoded pictures, or one of these is in a split that it is judged by.
        SpecError: As `hashed`.
    """
    if not isinstance(task.encoding, ImageInput) or task.encoding.encoding == "uint8":
        raise InputError(
            "pictures without labels need a task whose items are encoded pictures",
            got=type(task.encoding).__name__,
            where=f"task {task.name!r}",
            fix="Leave `unlabelled` out",
        )
    contents = _contents(spec)
    _digest(spec, contents)
    found = {item_digest(content): name for name, content in contents.items()}
    for name, split in task.splits.items():
        known = next((found[one] for one in map(item_digest, split.items) if one in found), None)
        if name != "train" and known is not None:
            raise InputError(
                "no picture without labels may be in another split than train",
                got=f"{known}, which is in {name}",
                where=spec.folder,
                fix="Remove it; a score on pictures that were learnt from says nothing",
            )
    train = task.splits["train"]
    labels = np.zeros((len(contents), *train.labels.shape[1:]), train.labels.dtype)
    classes = labels[:, :, 4] if task.boxes is not None else labels
    classes[:] = -1
    known_names = train.names or [f"item {i} of train" for i in range(len(train))]
    names = [*known_names, *(str(Path(spec.folder) / name) for name in contents)]
    longer = Split([*train.items, *contents.values()], np.concatenate([train.labels, labels]), names)
    return dataclasses.replace(task, splits={**task.splits, "train": longer})


def _contents(spec: Unlabelled) -> dict[str, bytes]:
    root = Path(spec.folder)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in _PICTURES) if root.is_dir() else []
    if not paths:
        raise SpecError("the folder must hold pictures", got="none", where=spec.folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _digest(spec: Unlabelled, contents: dict[str, bytes]) -> str:
    """The hash of the contents, which must be the one that ``spec`` names, if it does."""
    digest = hashlib.sha256("".join(item_digest(content) for content in contents.values()).encode()).hexdigest()
    if spec.sha256 not in (None, digest):
        raise SpecError(
            f"the pictures without labels must have the sha256 {spec.sha256}",
            got=digest,
            where=spec.folder,
            fix="Restore them, or leave sha256 out",
        )
    return digest
