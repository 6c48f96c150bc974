"""What a codec does to a latent, as training sees it."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import nn

from tierwise.codecs import AffineCodec, AffineTables, Codec, CodecKind, PriorCodec, RawCodec, calibrated
from tierwise.operators._density import Density

__all__ = ["Mode", "Rounding"]

Mode = Literal["none", "noise", "round"]
"""How the codec takes part in training: not at all, as noise of one step's width, or as it is, straight through."""


@final
class Rounding(nn.Module):
    """The loss of one codec, differentiable.

    Args:
        kind: The codec.
        channels: Of the latent.
        bits: Of a value, for ``affine``.
    """

    def __init__(self, kind: CodecKind, channels: int, bits: int) -> None:
        super().__init__()
        self.kind, self.bits = kind, bits
        self.density = Density(channels) if kind == "prior" else None
        self.low: torch.Tensor
        self.step: torch.Tensor
        self.settled: torch.Tensor
        self.register_buffer("low", torch.zeros(channels))
        self.register_buffer("step", torch.ones(channels))
        self.register_buffer("settled", torch.zeros(()))

    @torch.no_grad()
    def settle(self, latents: torch.Tensor) -> None:
        """Fix ranges or medians for good, from latents [n, c, h, w] of calibration items."""
        if self.density is not None:
            self.low.copy_(self.density.quantile(0.0))
        elif self.kind == "affine":
            tables = calibrated(latents.numpy(), self.bits)
            self.low.copy_(torch.tensor(tables.low))
            self.step.copy_(torch.tensor(tables.step))
        self.settled.fill_(1.0)

    def codec(self) -> Codec:
        """The codec that a node will use; after `settle`."""
        if self.density is not None:
            return PriorCodec(self.density.tables(self.low))
        if self.kind == "affine":
            return AffineCodec(AffineTables(self.bits, tuple(self.low.tolist()), tuple(self.step.tolist())))
        return RawCodec()

    def forward(self, latent: torch.Tensor, mode: Mode, sent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The latent as it arrives, and the bits of each item by the prior ([n], else 0).

        Args:
            latent: [n, c, h, w].
            mode: How the codec takes part; outside of training all that is settled is rounded.
            sent: How many of the channels are sent; None: all.
        """
        if not self.training:
            mode = "round" if bool(self.settled) or self.kind == "prior" else "none"
        low, step = self._range(latent, mode)
        arrived = self._arrived(latent, low, step, mode)
        bits = latent.new_zeros(len(latent))
        if sent is not None:
            missing = torch.arange(latent.shape[1]) >= sent
            arrived = torch.where(missing[:, None, None], low.expand_as(arrived), arrived)
        if self.density is not None:
            each = -torch.log2(self.density.likelihood(arrived))
            bits = (each if sent is None else each[:, :sent]).flatten(1).sum(1)
        return arrived, bits

    def _range(self, latent: torch.Tensor, mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
        """Where steps begin and how wide they are; before they are settled, by this very batch."""
        low, step = self.low, self.step
        if not bool(self.settled):
            if self.density is not None:
                low = self.density.quantile(0.0)
            elif self.kind == "affine":
                seen = latent.detach().transpose(0, 1).flatten(1)
                low = seen.amin(1)
                step = ((seen.amax(1) - low) / (2**self.bits - 1)).clamp(min=1e-12)
        return low[:, None, None], step[:, None, None]

    def _arrived(self, latent: torch.Tensor, low: torch.Tensor, step: torch.Tensor, mode: Mode) -> torch.Tensor:
        if mode == "none" or self.kind == "raw":
            return latent
        if mode == "noise":
            return latent + step * (torch.rand_like(latent) - 0.5)
        codes = torch.round((latent - low) / step)
        if self.kind == "affine":
            codes = codes.clamp(0, 2**self.bits - 1)
        return latent + (codes * step + low - latent).detach()
