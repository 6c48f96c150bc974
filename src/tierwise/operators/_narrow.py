"""Families of narrow encoders and decoders for pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn

from tierwise._errors import InputError
from tierwise.operators._gdn import GDN1

__all__ = ["Family", "Shape", "narrow_pair"]

Family = Literal["conv", "gdn", "autoencoder"]

# At first latents shall span several whole numbers; from values below 1 the prior would learn to send nothing.
_PRIOR_GAIN = 4.0


@final
@dataclass(frozen=True)
class Shape:
    """What a pair stands between.

    Attributes:
        source: Channels and sides of what the encoder reads.
        latent: Channels and sides of what is sent.
        target: Channels and sides of what the decoder makes.
    """

    source: tuple[int, int, int]
    latent: tuple[int, int, int]
    target: tuple[int, int, int]


def narrow_pair(family: Family, shape: Shape, width: int, depth: int = 0) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder, untrained.

    ``conv``: strided 3x3 convolutions with batch norm and ReLU, the last one bare (the form of BottleFit, arXiv
    2201.02693). ``gdn``: 5x5 convolutions of four, two and one times the latent's channels with GDN1 between, and its
    inverse behind (Entropic Student, arXiv 2108.11898). ``autoencoder``: reads the model's own features at the cut and
    halves their channels first.

    Args:
        family: Which.
        shape: Of what they stand between.
        width: Channels of the hidden layers of ``conv`` on the device.
        depth: Further layers of ``conv`` there, without a stride, before the last one.

    Raises:
        InputError: The sides cannot be reached by halving and doubling.
    """
    (channels, _, _), (narrow, height, wide), (wanted, high, broad) = shape.source, shape.latent, shape.target
    halvings = _halvings(shape.source[1:], (height, wide))
    if family == "gdn":
        encoder: nn.Module = _gdn_encoder(channels, narrow, halvings)
        hidden = [2 * wanted, wanted]
    elif family == "conv":
        strides = [2] * halvings + [1] * max(0, 2 - halvings)
        layers: list[nn.Module] = []
        for stride in strides[:-1]:
            layers += [*_conv(channels, width, stride)]
            channels = width
        for _ in range(depth):
            layers += [*_conv(width, width, 1)]
        encoder = nn.Sequential(*layers, nn.Conv2d(channels, narrow, 3, strides[-1], 1, bias=False))
        hidden = [wanted, wanted]
    else:
        half = max(narrow, channels // 2)
        strides = [2] * halvings or [1]
        layers = [*_conv(channels, half, strides[0])]
        for stride in strides[1:]:
            layers += [*_conv(half, half, stride)]
        encoder = nn.Sequential(*layers, nn.Conv2d(half, narrow, 3, padding=1, bias=False))
        hidden = [half, half]
    return encoder, _decoder(narrow, hidden, wanted, (height, wide), (high, broad), gdn=family == "gdn")


def _halvings(before: Sequence[int], after: Sequence[int]) -> int:
    for count in range(12):
        if [math.ceil(side / 2**count) for side in before] == list(after):
            return count
    raise InputError(
        "the sides of a latent must be those of its source, halved some times and rounded up",
        got=f"{list(before)} and {list(after)}",
        where="bottleneck.stride",
        fix="Give a power of two",
    )


def _conv(fan_in: int, fan_out: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()


def _gdn_encoder(channels: int, narrow: int, halvings: int) -> nn.Module:
    strides = [2] * halvings + [1] * max(0, 3 - halvings)
    widths = [4 * narrow] * (len(strides) - 2) + [2 * narrow]
    layers: list[nn.Module] = []
    for stride, width in zip(strides, widths, strict=False):
        layers += [nn.Conv2d(channels, width, 5, stride, 2, bias=False), GDN1(width)]
        channels = width
    last = nn.Conv2d(channels, narrow, 3, strides[-1], 1, bias=False)
    with torch.no_grad():
        last.weight *= _PRIOR_GAIN
    return nn.Sequential(*layers, last)


def _decoder(
    narrow: int, hidden: Sequence[int], wanted: int, before: tuple[int, int], after: tuple[int, int], *, gdn: bool
) -> nn.Module:
    # No norm stands first: behind a convolution the runtime would fuse it with, across the border.
    first, second = hidden
    layers = _then(nn.Conv2d(narrow, first, 3, padding=1, bias=False), first, gdn)
    channels, sides = first, list(before)
    while sides[0] < after[0] or sides[1] < after[1]:
        layers += _then(nn.ConvTranspose2d(channels, second, 2, 2, bias=False), second, gdn)
        channels, sides = second, [2 * side for side in sides]
    while [math.ceil(side / 2) for side in sides] >= list(after) and sides[0] > after[0]:
        if math.ceil(sides[0] / 2) < after[0]:
            break
        layers += _then(nn.Conv2d(channels, second, 3, 2, 1, bias=False), second, gdn)
        channels, sides = second, [math.ceil(side / 2) for side in sides]
    spare = [side - wish for side, wish in zip(sides, after, strict=True)]
    if min(spare) < 0 or max(spare) >= max(2, max(after)):
        raise InputError(
            "the sides of the replaced features must follow from the latent's by halving or doubling",
            got=f"{list(before)} and {list(after)}",
            where="bottleneck.stride",
            fix="Give another stride, or another cut",
        )
    if channels != second:
        layers += _then(nn.Conv2d(channels, second, 3, padding=1, bias=False), second, gdn)
    layers.append(nn.Conv2d(second, wanted, 3, padding=1))
    return nn.Sequential(*layers, *([_Crop(*after)] if any(spare) else []))


def _then(layer: nn.Module, channels: int, gdn: bool) -> list[nn.Module]:
    return [layer, GDN1(channels, inverse=True)] if gdn else [layer, nn.BatchNorm2d(channels), nn.ReLU()]


@final
class _Crop(nn.Module):
    """Drops what doubling made too much, at the lower and the right border."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self._height, self._width = height, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, : self._height, : self._width]
