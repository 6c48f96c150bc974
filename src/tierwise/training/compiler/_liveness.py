"""Which tensors live when: the most memory that a graph's intermediate tensors take at once."""

from __future__ import annotations

import torch
from torch import fx

__all__ = ["peak_bytes"]

_ATEN = torch.ops.aten
_VIEWS = {
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.unsqueeze.default,
    _ATEN.squeeze.dims, _ATEN.squeeze.dim, _ATEN.expand.default,
}  # fmt: skip


def peak_bytes(graph: fx.GraphModule) -> int:
    """Largest sum of the intermediate tensors alive while any node runs, in the order of the graph.

    Inputs, weights and constants are not counted, nor are outputs: the caller gives buffers for them. What reshapes
    shares the memory of what it reshapes; every other node has a result of its own while its inputs still live.
    """
    nodes = list(graph.graph.nodes)
    owner = {node: _owner(node) for node in nodes}
    last: dict[fx.Node, int] = {}
    for i, node in enumerate(nodes):
        for given in node.all_input_nodes:
            last[owner[given]] = i
    kept = {owner[node] for end in nodes if end.op == "output" for node in end.all_input_nodes}
    live = peak = 0
    ending: dict[int, list[fx.Node]] = {}
    for node, i in last.items():
        ending.setdefault(i, []).append(node)
    for i, node in enumerate(nodes):
        if owner[node] is node and node not in kept:
            live += _bytes(node)
        peak = max(peak, live)
        live -= sum(_bytes(done) for done in ending.get(i, ()) if node not in kept)
    return peak


def _owner(node: fx.Node) -> fx.Node:
    while node.target in _VIEWS:
        node = node.all_input_nodes[0]
    return node


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor):
        return 0
    return int(value.numel()) * value.element_size()
