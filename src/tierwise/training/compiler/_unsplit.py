"""Operators that answer several tensors at once, written as slices: ONNX has them as sequences, which have no shape."""

from __future__ import annotations

import operator

import torch
from torch import fx

__all__ = ["unsplit"]

_ATEN = torch.ops.aten
_SPLITS = (
    _ATEN.split.Tensor, _ATEN.split.sizes, _ATEN.split_with_sizes.default, _ATEN.chunk.default, _ATEN.unbind.int
)  # fmt: skip


def unsplit(graph: fx.GraphModule) -> None:
    """Replace each part of a split, a chunk or an unbind by a slice of what is split, where its sizes are known."""
    for node in list(graph.graph.nodes):
        if node.target not in _SPLITS or not isinstance(node.meta.get("val"), list | tuple):
            continue
        parts = [one for one in node.users if one.target is operator.getitem]
        whole = node.target is not _ATEN.unbind.int
        given = node.args[2:] if whole else node.args[1:]
        dim = int(node.kwargs.get("dim", given[0] if given else 0))
        sizes = [value.shape[dim] if whole else 1 for value in node.meta["val"]]
        if len(parts) != len(node.users) or not all(isinstance(size, int) for size in sizes):
            continue
        for part in parts:
            _replace(graph, node, part, dim, sizes)
    graph.graph.eliminate_dead_code()


def _replace(graph: fx.GraphModule, node: fx.Node, part: fx.Node, dim: int, sizes: list[int]) -> None:
    place = part.args[1]
    if not isinstance(place, int):
        return
    with graph.graph.inserting_before(part):
        if node.target is _ATEN.unbind.int:
            made = graph.graph.call_function(_ATEN.select.int, (node.args[0], dim, place))
        else:
            start = sum(sizes[: place % len(sizes)])
            bounds = (start, start + sizes[place % len(sizes)])
            made = graph.graph.call_function(_ATEN.slice.Tensor, (node.args[0], dim, *bounds))
    made.meta = dict(part.meta)
    part.replace_all_uses_with(made)
    graph.graph.erase_node(part)
