"""Passes over the graph of a step: what is the same is computed once, an update follows its gradient at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["macs", "simplify", "update_at_once"]

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


def update_at_once(graph: fx.GraphModule) -> None:
    """Move what only updates read up to behind its last input: a gradient is gone before the next one is made.

    Autograd traces all gradients first and the optimiser last, which keeps every gradient alive.
    """
    nodes = list(graph.graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    early: set[fx.Node] = {node for node in nodes if node.op in ("placeholder", "get_attr")}
    for node in nodes:
        if node.op != "call_function":
            continue
        made = [given for given in node.all_input_nodes if given not in early]
        if not made:
            early.add(node)  # of weights and state alone: made when it is needed
            continue
        latest = max(made, key=place.__getitem__)
        if place[latest] + 1 < place[node] and _shrinks(node):
            latest.append(node)
            _bring(node, early, place[latest], place)
            place = {moved: i for i, moved in enumerate(graph.graph.nodes)}
    graph.graph.lint()
    graph.recompile()


def _bring(node: fx.Node, early: set[fx.Node], behind: int, place: dict[fx.Node, int]) -> None:
    """Put what ``node`` needs of weights and state right before it, where that now stands too late."""
    for given in node.all_input_nodes:
        if given in early and given.op == "call_function" and place[given] > behind:
            node.prepend(given)
            _bring(given, early, behind, place)


def _shrinks(node: fx.Node) -> bool:
    """Whether all that follows from ``node`` are updates: it leads to outputs through elementwise nodes alone."""
    pending, seen = [node], set[fx.Node]()
    size = _numel(node)
    while pending:
        one = pending.pop()
        for user in one.users:
            if user.op == "output" or user in seen:
                continue
            if _numel(user) != size or len(seen) > 24:
                return False
            seen.add(user)
            pending.append(user)
    return True


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
