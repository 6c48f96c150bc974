"""Training states and weights on disk: safetensors, written whole or not at all. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

__all__ = ["Checkpoint", "load_checkpoint", "load_weights", "save_checkpoint", "save_weights"]

Weights = dict[str, torch.Tensor]


@final
@dataclass(frozen=True)
class Checkpoint:
    """A training between two epochs.

    Attributes:
        epoch: Epochs finished.
        model: Weights now.
        best: Weights of the best epoch so far.
        optimiser: State of each parameter by its index in the optimiser.
        history: Validation score after each epoch.
        seconds: Time spent so far.
    """

    epoch: int
    model: Weights
    best: Weights
    optimiser: Mapping[int, Mapping[str, torch.Tensor]]
    history: tuple[float, ...]
    seconds: float


def save_checkpoint(path: Path, state: Checkpoint) -> None:
    """Replace the file ``path`` in one step."""
    tensors = {f"model/{name}": tensor for name, tensor in state.model.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    for index, entries in state.optimiser.items():
        tensors |= {f"optimiser/{index}/{name}": tensor for name, tensor in entries.items()}
    rest = {"epoch": state.epoch, "history": state.history, "seconds": state.seconds}
    _write(path, tensors, rest)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The training to go on with; None where there is none that can be read."""
    read = _read(path)
    if read is None:
        return None
    tensors, rest = read
    model: Weights = {}
    best: Weights = {}
    optimiser: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part == "optimiser":
            index, _, entry = name.partition("/")
            optimiser.setdefault(int(index), {})[entry] = tensor
        else:
            (model if part == "model" else best)[name] = tensor
    return Checkpoint(rest["epoch"], model, best, optimiser, tuple(rest["history"]), rest["seconds"])


def save_weights(path: Path, weights: Weights, remarks: Mapping[str, Any]) -> None:
    """Weights and how they came about (plain data), in one file."""
    _write(path, weights, remarks)


def load_weights(path: Path) -> tuple[Weights, dict[str, Any]] | None:
    """What `save_weights` wrote; None where there is no file that can be read."""
    return _read(path)


def _write(path: Path, tensors: Weights, rest: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    # Copies, because safetensors refuses tensors that share memory, and weights are often channels-last.
    plain = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(plain, stage, {"tierwise": json.dumps(dict(rest))})
    stage.replace(path)


def _read(path: Path) -> tuple[Weights, dict[str, Any]] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            rest: dict[str, Any] = json.loads((file.metadata() or {})["tierwise"])
            return {name: file.get_tensor(name) for name in file.keys()}, rest  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError, ValueError):
        return None
