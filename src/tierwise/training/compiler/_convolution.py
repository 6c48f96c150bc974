"""The backward of a convolution, written with forward operators, so that an engine for inference can run it."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["convolution_backward"]

_ATEN = torch.ops.aten


def convolution_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of a 2-d convolution by its input, weight and bias, as far as ``output_mask`` asks for them.

    Args:
        grad: [n, out, rows, columns].
        x: What went in.
        weight: [out, in / groups, height, width].
        bias_sizes: Not used: the gradient says the size.
        stride: As in the forward call, and so the next four.
        padding: As above.
        dilation: As above.
        transposed: Must be False.
        output_padding: Not used.
        groups: As in the forward call.
        output_mask: Which of the three are wanted.
    """
    if transposed or weight.ndim != 4:
        raise NotImplementedError("aten.convolution_backward of a transposed or not 2-d convolution")
    g_x = _by_input(grad, x, weight, stride, padding, dilation, groups) if output_mask[0] else None
    g_w = _by_weight(grad, x, weight, stride, padding, dilation, groups) if output_mask[1] else None
    g_b = grad.sum((0, 2, 3)) if output_mask[2] else None
    return g_x, g_w, g_b


def _by_input(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> torch.Tensor:
    kernel = weight.shape[2:]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    turned = [r - p for r, p in zip(reach, padding, strict=True)]
    depthwise = groups == weight.shape[0] and weight.shape[1] == 1
    if (groups == 1 or depthwise) and min(turned) >= 0 and (depthwise or list(stride) == [1, 1]):
        # A correlation with the kernel turned by 180 degrees, the gradient first spread out to the input's grid.
        spread = _spread(grad, list(x.shape[2:]), stride, padding, reach)
        flipped = weight.flip(2, 3) if max(kernel) > 1 else weight
        flipped = flipped if depthwise else flipped.transpose(0, 1)
        straight: torch.Tensor = _ATEN.convolution(
            spread, flipped, None, [1, 1], turned, dilation, False, [0, 0], groups
        )
        return straight
    left = [x.shape[2 + a] - ((grad.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + reach[a] + 1) for a in (0, 1)]
    turned_back: torch.Tensor = _ATEN.convolution(grad, weight, None, stride, padding, dilation, True, left, groups)
    return turned_back


def _spread(grad: torch.Tensor, size: list[int], stride: Any, padding: Any, reach: list[int]) -> torch.Tensor:
    """Zeros between the elements of ``grad``, as many as ``stride`` skips, and behind them up to the input's grid."""
    if list(stride) == [1, 1]:
        return grad
    n, c, rows, columns = grad.shape
    # As a product with a matrix of ones and zeros: in an engine up to 18 times as fast as padding every element.
    width = stride[0] * stride[1] * columns
    places = [[float(place == column * stride[1]) for place in range(width)] for column in range(columns)]
    wide = grad.reshape(-1, columns) @ torch.tensor(places, dtype=grad.dtype)
    wide = wide.reshape(n, c, rows * stride[0], columns * stride[1])
    # A unit-stride correlation with this grid must give back ``size``: so many positions the forward pass looked at.
    wanted = [size[a] + 2 * padding[a] - reach[a] for a in (0, 1)]
    more = [wanted[a] - wide.shape[2 + a] for a in (0, 1)]
    if any(more):
        wide = _ATEN.constant_pad_nd(wide, [0, more[1], 0, more[0]])
    spread: torch.Tensor = wide
    return spread


def _by_weight(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> torch.Tensor:
    """For every place of the kernel, the product of the gradient with what that place saw, summed over positions.

    One matrix product a place is faster in an inference engine than the convolution with a kernel as large as the
    picture that the textbook form needs.
    """
    if any(padding):
        x = _ATEN.constant_pad_nd(x, [padding[1], padding[1], padding[0], padding[0]])
    out, inner = weight.shape[0], weight.shape[1]
    places = [(i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]
    seen = [_seen(x, i * dilation[0], j * dilation[1], stride, grad.shape) for i, j in places]
    if inner == 1 and groups == out:
        return torch.stack([(s * grad).sum((0, 2, 3)) for s in seen], dim=1).reshape(weight.shape)
    if groups == 1:
        left = _rows(grad)
        parts = [left @ _rows(s).t() for s in seen]
    else:
        left = _rows(grad).reshape(groups, out // groups, -1)
        parts = [(left @ _rows(s).reshape(groups, inner, -1).transpose(1, 2)).reshape(out, inner) for s in seen]
    return parts[0].reshape(weight.shape) if len(parts) == 1 else torch.stack(parts, dim=2).reshape(weight.shape)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[n, c, h, w] as [c, n h w]."""
    return x.reshape(x.shape[1], -1) if x.shape[0] == 1 else x.transpose(0, 1).reshape(x.shape[1], -1)


def _seen(x: torch.Tensor, top: int, left: int, stride: Any, shape: torch.Size) -> torch.Tensor:
    rows, columns = top + (shape[2] - 1) * stride[0] + 1, left + (shape[3] - 1) * stride[1] + 1
    if (top, left) == (0, 0) and list(stride) == [1, 1] and x.shape[2:] == (rows, columns):
        return x
    return x[:, :, top : rows : stride[0], left : columns : stride[1]]
