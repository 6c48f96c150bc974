"""Layers of which a share of the input channels is trained: the gradient of the rest is never computed or kept."""

from __future__ import annotations

from typing import Any, final

import torch

__all__ = ["narrow_conv2d", "narrow_linear", "whole_weight"]


def whole_weight(part: torch.Tensor, weight: torch.Tensor, channels: tuple[int, ...]) -> torch.Tensor:
    """``weight`` [out, in, ...] with the columns ``channels`` from ``part``: both side by side, then in their order."""
    rest = [c for c in range(weight.shape[1]) if c not in set(channels)]
    order = {c: i for i, c in enumerate((*channels, *rest))}
    joined = torch.cat([part, weight.index_select(1, torch.tensor(rest, dtype=torch.int64))], dim=1)
    return joined.index_select(1, torch.tensor([order[c] for c in range(weight.shape[1])], dtype=torch.int64))


def narrow_linear(
    part: torch.Tensor,
    channels: tuple[int, ...],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x @ weight.T + bias`` with the trained columns ``part``; saves only these channels of ``x``."""
    y: torch.Tensor = _Linear.apply(part, weight, x, channels)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias


def narrow_conv2d(
    part: torch.Tensor,
    channels: tuple[int, ...],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> torch.Tensor:
    """A convolution without groups, with the trained input channels ``part``; saves only these channels of ``x``."""
    geometry = (list(stride), list(padding), list(dilation))
    y: torch.Tensor = _Convolution.apply(part, weight, x, channels, geometry)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias[None, :, None, None]


@final
class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Any, weight: Any, x: Any, channels: Any) -> Any:
        ctx.channels = channels
        chosen = x.index_select(x.ndim - 1, torch.tensor(channels, dtype=torch.int64))
        ctx.save_for_backward(part, weight, chosen)
        return x @ whole_weight(part, weight, channels).t()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        part, weight, chosen = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        g_part = rows.t() @ chosen.reshape(-1, chosen.shape[-1])
        g_x = grad @ whole_weight(part, weight, ctx.channels) if ctx.needs_input_grad[2] else None
        return g_part, None, g_x, None


@final
class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Any, weight: Any, x: Any, channels: Any, geometry: Any) -> Any:
        ctx.channels, ctx.geometry, ctx.shape = channels, geometry, x.shape
        ctx.save_for_backward(part, weight, x.index_select(1, torch.tensor(channels, dtype=torch.int64)))
        stride, padding, dilation = geometry
        whole = whole_weight(part, weight, channels)
        return torch.ops.aten.convolution(x, whole, None, stride, padding, dilation, False, [0, 0], 1)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        part, weight, chosen = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        common = (None, stride, padding, dilation, False, [0, 0], 1)
        backward = torch.ops.aten.convolution_backward
        g_part = backward(grad, chosen, part, *common, [False, True, False])[1]
        g_x = None
        if ctx.needs_input_grad[2]:
            like = grad.new_empty(ctx.shape)
            g_x = backward(grad, like, whole_weight(part, weight, ctx.channels), *common, [True, False, False])[0]
        return g_part, None, g_x, None, None
