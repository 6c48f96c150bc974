"""Weights of a start into an encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tierwise._errors import SpecError

__all__ = ["load_start"]

_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def load_start(encoder: nn.Module, weights: Path, family: str) -> None:
    """Fill ``encoder`` with the tensors of a safetensors file, as they are or under the family's name as a prefix.

    What the file has beyond the encoder (a head for masked words, position ids) is left out. The pooler stays as it is
    where the file has none; every other tensor must be there.

    Args:
        encoder: From `tierwise.tasks._encoder.build_encoder`.
        weights: The file.
        family: ``bert`` or ``roberta``.

    Raises:
        SpecError: The file cannot be read, or a tensor is missing or has another shape.
    """
    try:
        stored = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise SpecError(
            f"the weights of a start must be a readable safetensors file ({error})", where=weights
        ) from error
    found = {_plain(name, family): tensor for name, tensor in stored.items()}
    own = encoder.state_dict()
    filled: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        given = found.get(name)
        if given is None and name.startswith("pooler."):
            continue
        if given is None or given.shape != tensor.shape:
            raise SpecError(
                f"the weights of a start must hold {name} of shape {list(tensor.shape)}",
                got="none" if given is None else f"shape {list(given.shape)}",
                where=weights,
            )
        filled[name] = given.to(tensor.dtype)
    encoder.load_state_dict(filled, strict=False)


def _plain(name: str, family: str) -> str:
    name = name.removeprefix(f"{family}.")
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
