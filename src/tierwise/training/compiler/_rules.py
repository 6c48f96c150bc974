"""How operators of the joint graph are taken apart into those that an inference engine has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, get_decompositions

from tierwise.training.compiler._convolution import convolution_backward

__all__ = ["rules"]

_ATEN = torch.ops.aten


def rules() -> dict[Any, Callable[..., Any]]:
    """The table for ``make_fx``: PyTorch's own decompositions and, where it has none, ours."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    names = (
        "native_layer_norm_backward", "gelu_backward", "hardtanh_backward", "threshold_backward", "tanh_backward",
        "sigmoid_backward", "silu_backward", "hardswish_backward", "hardsigmoid_backward", "leaky_relu_backward",
        "elu_backward", "_softmax_backward_data", "_log_softmax_backward_data", "select_backward", "slice_backward",
        "native_group_norm_backward", "native_batch_norm", "addmm", "lerp", "addcmul", "addcdiv",
    )  # fmt: skip
    table.update(get_decompositions([getattr(_ATEN, name) for name in names]))
    table[_ATEN.convolution_backward.default] = convolution_backward
    table[_ATEN.max_pool2d_with_indices_backward.default] = _max_pool_backward
    table[_ATEN.avg_pool2d_backward.default] = _average_pool_backward
    table[_ATEN.embedding_dense_backward.default] = _embedding_backward
    table[_ATEN.slice_backward.default] = _slice_backward
    table[_ATEN.select_backward.default] = _select_backward
    table[_ATEN.pow.Tensor_Scalar] = _power
    table.pop(_ATEN.addmm.default, None)
    return table


def _slice_backward(grad: torch.Tensor, sizes: Any, dim: int, start: int, end: int, step: int) -> torch.Tensor:
    """Zeros around the gradient: a scatter, the usual form, is exported with two transposes of the whole tensor."""
    size = sizes[dim]
    start, end = (min(max(at + size if at < 0 else at, 0), size) for at in (start, end))
    if step != 1:
        whole: torch.Tensor = torch.slice_scatter(grad.new_zeros(sizes), grad, dim, start, end, step)
        return whole
    behind = [0, 0] * (len(sizes) - 1 - dim % len(sizes))
    return torch.nn.functional.pad(grad, [*behind, start, size - max(start, end)])


def _select_backward(grad: torch.Tensor, sizes: Any, dim: int, index: int) -> torch.Tensor:
    dim, index = dim % len(sizes), index % sizes[dim]
    return _slice_backward(grad.unsqueeze(dim), sizes, dim, index, index + 1, 1)


def _power(x: torch.Tensor, exponent: Any) -> Any:
    """Small whole powers as products, which engines compute several times faster."""
    if exponent not in (1, 2, 3) or not x.is_floating_point():
        return NotImplemented
    return {1: lambda: x, 2: lambda: x * x, 3: lambda: x * x * x}[int(exponent)]()


def _max_pool_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, where: Any
) -> torch.Tensor:
    flat = torch.zeros_like(x).flatten(2)
    return flat.scatter_add(2, where.flatten(2), grad.flatten(2)).reshape(x.shape)


def _average_pool_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel: Any, stride: Any, padding: Any, ceil: bool, counted: bool, divisor: Any
) -> torch.Tensor:
    """Of windows that lie side by side: every element of one has an equal share of its gradient."""
    high, wide = (*kernel, *kernel)[:2]
    n, c, rows, columns = grad.shape
    if ((*stride, *stride) or (high, wide))[:2] != (high, wide) or any(padding) or ceil:
        raise NotImplementedError("aten.avg_pool2d_backward of windows that overlap, or reach over the border")
    shares = (grad / (divisor or high * wide)).reshape(n, c, rows, 1, columns, 1)
    whole = shares.expand(n, c, rows, high, columns, wide).reshape(n, c, rows * high, columns * wide)
    more = [x.shape[2 + a] - whole.shape[2 + a] for a in (0, 1)]
    return torch.nn.functional.pad(whole, [0, more[1], 0, more[0]]) if any(more) else whole


def _embedding_backward(grad: torch.Tensor, ids: torch.Tensor, rows: int, padding: int, scaled: bool) -> torch.Tensor:
    width = grad.shape[-1]
    kept = grad if padding < 0 else grad * (ids != padding).unsqueeze(-1).to(grad.dtype)
    places = ids.reshape(-1, 1).expand(-1, width)
    return grad.new_zeros((rows, width)).scatter_add(0, places, kept.reshape(-1, width))
