"""Measured numbers on disk, one file each, so that what was stopped goes on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar, final

import msgspec
import torch

from tierwise.training.compiler import Model

__all__ = ["Entries", "model_digest", "tensors_digest"]

T = TypeVar("T")


@final
class Entries:
    """Files named by the SHA-256 of what was asked; what does not read as the asked type counts as missing.

    Args:
        folder: Holds them; made where missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, asked: object, kind: type[T]) -> T | None:
        """What was put for ``asked``; None where nothing was."""
        try:
            return msgspec.json.decode(self._path(asked).read_bytes(), type=kind)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def put(self, asked: object, value: object) -> None:
        """Keep ``value``; a kill at any moment leaves no part of it."""
        path = self._path(asked)
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = path.with_suffix(f".{os.getpid()}")
        stage.write_bytes(msgspec.json.encode(value))
        stage.replace(path)

    def _path(self, asked: object) -> Path:
        return self._folder / f"{hashlib.sha256(msgspec.json.encode(asked, order='sorted')).hexdigest()[:32]}.json"


def tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name}\0{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def model_digest(model: Model) -> str:
    """`tensors_digest` of a model's tensors, in the order of their use."""
    order = "\0".join(f"{layer.name}:{','.join(layer.parameters)}" for layer in model.layers)
    return hashlib.sha256((order + tensors_digest(model.tensors)).encode()).hexdigest()
