"""Rounding as an integer model does it, in float and with a gradient."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import nn

__all__ = ["LearnedRange", "rounded_weight"]

_LEVELS = 255


@final
class LearnedRange(nn.Module):
    """Rounds an activation to 256 levels between two limits that are learnt; zero is one of the levels.

    The limits move as shares of where they started, so that one learning rate fits tensors of any size, and a limit
    that started at zero (behind a ReLU) stays there.

    Args:
        low: First lower limit; above zero it counts as zero.
        high: First upper limit; below zero it counts as zero.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor([min(low, 0.0), max(high, 0.0)]))
        self.stretch = nn.Parameter(torch.zeros(2))

    def limits(self) -> torch.Tensor:
        """Lower and upper limit, [2]."""
        start: torch.Tensor = self.start  # type: ignore[assignment]
        return start * torch.exp(_STRETCH_RATE * self.stretch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded and clipped."""
        rounded: torch.Tensor = _Round.apply(x, self.limits())  # type: ignore[no-untyped-call]
        return rounded


# Makes one step of an optimiser move a limit by a few times its learning rate, which is made for weights.
_STRETCH_RATE = 5.0


@final
class _Round(torch.autograd.Function):
    """Rounding between limits; the gradient passes where nothing is clipped, and the limits get theirs.

    The limits' gradients are those of learned step size quantisation (Esser et al. 2020, arXiv 1902.08153), taken for
    both ends of an asymmetric range, and scaled as there so that they do not outweigh those of the weights.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
        low, high = limits.tolist()
        if high - low < 1e-30:
            ctx.empty = True
            return torch.zeros_like(x)
        ctx.empty = False
        scale = (high - low) / _LEVELS
        rounded = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, _LEVELS)
        ctx.save_for_backward(x, rounded, limits)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        (gradient,) = gradients
        if ctx.empty:
            return torch.zeros_like(gradient), None
        x, rounded, limits = ctx.saved_tensors
        low, high = limits.tolist()
        above, below = x > high, x < low
        inside = ~(above | below)
        passed = gradient * inside
        # How far rounding moved each value, in shares of the range: d(rounded)/d(width).
        moved = (passed * (rounded - x)).sum() / (high - low)
        size = 1.0 / math.sqrt(x.numel() * _LEVELS)
        ends = torch.stack([(gradient * below).sum() - moved, (gradient * above).sum() + moved])
        return passed, size * ends


def rounded_weight(weight: torch.Tensor, axis: int | None, limit: int) -> torch.Tensor:
    """``weight`` rounded to whole steps of its largest magnitude / ``limit``, per index of ``axis`` (None: altogether).

    The gradient passes unchanged.
    """
    with torch.no_grad():
        if axis is None:
            scale = weight.abs().amax().reshape(1) / limit
        else:
            scale = weight.abs().amax([i for i in range(weight.ndim) if i != axis]) / limit
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = torch.zeros(len(scale), dtype=torch.int32)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(weight, scale, zero, -limit, limit)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -limit, limit)
