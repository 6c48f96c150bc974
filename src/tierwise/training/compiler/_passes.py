"""Passes over the graph of a step: what is the same is computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["macs", "simplify"]

_ATEN = torch.ops.aten
_SAME = (_ATEN.detach.default, _ATEN.alias.default, _ATEN.lift_fresh_copy.default)


def simplify(graph: fx.GraphModule) -> None:
    """Remove copies that change nothing, nodes that compute what another does, and nodes nobody uses."""
    for node in list(graph.graph.nodes):
        if node.target in _SAME:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = (node.op, node.target, repr(node.args), repr(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)
    graph.recompile()


def _numel(node: fx.Node) -> int:
    value = node.meta.get("val")
    return int(value.numel()) if isinstance(value, torch.Tensor) else -1


def macs(graph: fx.GraphModule) -> int:
    """Multiply-accumulates of convolutions and matrix products."""
    total = 0
    for node in graph.graph.nodes:
        if node.target in (_ATEN.mm.default, _ATEN.addmm.default, _ATEN.bmm.default, _ATEN.baddbmm.default):
            left = node.args[-2].meta["val"]
            total += _numel(node) * int(left.shape[-1])
        elif node.target is _ATEN.convolution.default:
            x, weight, transposed = node.args[0].meta["val"], node.args[1].meta["val"], node.args[6]
            each = int(weight[0].numel())
            total += (int(x.numel()) if transposed else _numel(node)) * each
    return total
