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
    table[_ATEN.embedding_dense_backward.default] = _embedding_backward
    table.pop(_ATEN.addmm.default, None)
    return table


def _max_pool_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, where: Any
) -> torch.Tensor:
    flat = torch.zeros_like(x).flatten(2)
    return flat.scatter_add(2, where.flatten(2), grad.flatten(2)).reshape(x.shape)


def _embedding_backward(grad: torch.Tensor, ids: torch.Tensor, rows: int, padding: int, scaled: bool) -> torch.Tensor:
    width = grad.shape[-1]
    kept = grad if padding < 0 else grad * (ids != padding).unsqueeze(-1).to(grad.dtype)
    places = ids.reshape(-1, 1).expand(-1, width)
    return grad.new_zeros((rows, width)).scatter_add(0, places, kept.reshape(-1, width))
