"""Single weights set to zero, and held there while the rest trains on."""

from __future__ import annotations

import zlib
from typing import final

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["compressed_bytes", "masked", "unmasked"]

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def masked(module: nn.Module, ratio: float) -> None:
    """Hold the ``ratio`` smallest weights of all convolutions and matrix products of ``module`` at zero.

    Magnitudes are compared over the whole module; biases, norms and embeddings stay whole. Weights that are zero count
    among the smallest, so that a second call with a higher ratio goes on from the first.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
    magnitudes = torch.cat([layer.weight.detach().abs().flatten() for layer in layers])
    order = torch.argsort(magnitudes, stable=True)
    alive = torch.ones(len(magnitudes), dtype=torch.bool)
    alive[order[: int(ratio * len(magnitudes))]] = False
    for layer, mask in zip(layers, torch.split(alive, [layer.weight.numel() for layer in layers]), strict=True):
        parametrize.register_parametrization(layer, "weight", _Mask(mask.view_as(layer.weight)))


def unmasked(module: nn.Module) -> None:
    """Make the zeros plain weights again."""
    for layer in module.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def compressed_bytes(module: nn.Module) -> tuple[int, int]:
    """Bytes of the weights as they are, and after general compression (deflate)."""
    raw = b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in module.state_dict().values())
    return len(raw), len(zlib.compress(raw, 6))


@final
class _Mask(nn.Module):
    """Multiplies a weight by zeros and ones."""

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask
