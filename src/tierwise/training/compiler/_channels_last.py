"""A step relaid for a compiler of loops: channels innermost, 1x1 convolutions as matrix products over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from tierwise.training.compiler._passes import simplify
from tierwise.training.compiler._split import Part

__all__ = ["relay"]

_ATEN = torch.ops.aten
_VIEWS = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)


def relay(part: Part) -> Part:
    """``part`` traced again with every picture [n, c, h, w] lying in memory as [n, h, w, c].

    A 1x1 convolution becomes one product [n h w, in] x [in, out] and a depthwise one a sum of shifted products, which
    a loop compiler fuses with what stands around it. Inputs and outputs of the graph stay as they are.
    """
    examples = [
        torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)
        for node in part.graph.graph.nodes
        if node.op == "placeholder"
    ]
    run = _Relay(part.graph)
    graph = make_fx(lambda *given: run.run(*given), tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
    simplify(graph)
    return Part(graph, part.inputs, part.outputs)


@final
class _Relay(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        args, _ = self.fetch_args_kwargs_from_env(n)
        if n.target is _ATEN.convolution.default:
            return _convolution(*args)
        if n.target is _ATEN.clone.default and all(user.target in _VIEWS for user in n.users):
            return args[0]  # made contiguous for a view alone; the view copies where it has to
        if n.target in _VIEWS:
            return args[0].reshape(args[1])
        if n.op == "output":
            return tuple(value.contiguous() for value in args[0])
        return super().run_node(n)


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    left: Sequence[int],
    groups: int,
) -> torch.Tensor:
    plain = not transposed and max(dilation) == 1
    if plain and groups == 1 and tuple(weight.shape[2:]) == (1, 1) and not any(padding):
        return _pointwise(x[:, :, :: stride[0], :: stride[1]] if max(stride) > 1 else x, weight, bias)
    if plain and groups == x.shape[1] == weight.shape[0]:
        return _depthwise(x, weight, bias, stride, padding)
    x = x.contiguous(memory_format=torch.channels_last)
    y: torch.Tensor = _ATEN.convolution(x, weight, bias, stride, padding, dilation, transposed, left, groups)
    return y


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, c)
    kernel = weight.reshape(-1, c).t()
    y = rows @ kernel if bias is None else torch.addmm(bias, rows, kernel)
    return y.view(n, h, w, -1).permute(0, 3, 1, 2)


def _depthwise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    x = x.permute(0, 2, 3, 1)
    reach = [(x.shape[1 + a] + 2 * padding[a] - weight.shape[2 + a]) // stride[a] for a in (0, 1)]
    wide = _ATEN.constant_pad_nd(x, [0, 0, padding[1], padding[1], padding[0], padding[0]]) if any(padding) else x
    total = x.new_zeros(weight.shape[0]) if bias is None else bias
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            seen = wide[:, i : i + reach[0] * stride[0] + 1 : stride[0], j : j + reach[1] * stride[1] + 1 : stride[1]]
            total = total + seen * weight[:, 0, i, j]
    return total.permute(0, 3, 1, 2)
