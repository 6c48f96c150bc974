"""Forms of the same arithmetic for which an engine has the faster kernel."""

from __future__ import annotations

import torch
from torch import fx

__all__ = ["bias_apart"]

_ATEN = torch.ops.aten


def bias_apart(graph: fx.GraphModule) -> int:
    """Take trained biases out of depthwise convolutions whose weight is frozen; how many there were.

    ONNX Runtime packs a convolution for its fast kernel only where weight and bias are both constants; a depthwise
    one is ten times slower without. An addition behind it costs little beside that.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not _ATEN.convolution.default or node.args[8] == 1:
            continue
        weight, bias = node.args[1], node.args[2]
        if not isinstance(bias, fx.Node) or _frozen(bias) or not _frozen(weight):
            continue
        with graph.graph.inserting_after(node):
            column = graph.graph.call_function(_ATEN.view.default, (bias, [-1, 1, 1]))
        with graph.graph.inserting_after(column):
            added = graph.graph.call_function(_ATEN.add.Tensor, (node, column))
        column.meta["val"] = bias.meta["val"].reshape(-1, 1, 1)
        added.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(added, delete_user_cb=lambda user, added=added: user is not added)
        node.args = (*node.args[:2], None, *node.args[3:])
        changed += 1
    graph.graph.lint()
    graph.recompile()
    return changed


def _frozen(node: fx.Node) -> bool:
    """Whether a value is made of constants alone."""
    if node.op == "placeholder":
        return False
    return all(_frozen(given) for given in node.all_input_nodes)
