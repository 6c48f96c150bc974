"""What the backward pass of a clipped activation needs of it is one bit: saved as a mask, made in the forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["save_masks"]

_ATEN = torch.ops.aten
# Which bound a comparison must be with, so that what is clipped answers as what was not: x <= low and x > low are so,
# x < low and x >= low are not (nothing clipped is below low).
_WITH_LOW, _WITH_HIGH = (_ATEN.le.Scalar, _ATEN.gt.Scalar), (_ATEN.ge.Scalar, _ATEN.lt.Scalar)
_COMPARE = (*_WITH_LOW, *_WITH_HIGH)
_JOIN = (_ATEN.bitwise_or.Tensor, _ATEN.bitwise_and.Tensor, _ATEN.logical_or.default, _ATEN.logical_and.default)
_MASK = (*_COMPARE, *_JOIN, _ATEN.bitwise_not.default, _ATEN.logical_not.default)


def save_masks(graph: fx.GraphModule) -> int:
    """Make the masks of ReLU, ReLU6 and their like where the activation is made; the number of masks that moved.

    Autograd compares the activation's input with its bounds in the backward pass, and so keeps all of it: 4 bytes an
    element, beside the output that the next layer keeps. The comparison with a bound has the same answer for what is
    clipped to it, so it is made of the output, and at once: 1 byte an element is kept, the input is gone, and an engine
    may fuse the activation into the convolution before it. No number changes (Lin et al., arXiv 2206.15472, section 3:
    one bit an element for the mask).
    """
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    clipped: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if _bounds(node) is not None:
            clipped.setdefault(node.args[0], node)
    for node in list(graph.graph.nodes):
        after = clipped.get(node.args[0]) if node.target in _COMPARE else None
        if after is not None and place[after] < place[node] and _same(node, after):
            node.replace_input_with(node.args[0], after)
    _multiply(graph)
    moved = 0
    for node in list(graph.graph.nodes):
        made = [given for given in node.all_input_nodes if given.op == "call_function"]
        if node.target not in _MASK or not made:
            continue
        place = {one: i for i, one in enumerate(graph.graph.nodes)}
        latest = max(made, key=place.__getitem__)
        if place[latest] + 1 < place[node]:
            latest.append(node)
            moved += 1
    graph.graph.lint()
    graph.recompile()
    return moved


def _multiply(graph: fx.GraphModule) -> None:
    """Where a mask sets a gradient to zero, multiply with the mask instead.

    An engine can do that in the gradient's own memory; ONNX Runtime's Where needs three more tensors of its size.
    """
    for node in list(graph.graph.nodes):
        if node.target is not _ATEN.where.self or node.args[0].target not in _MASK or not _is_zero(node.args[1]):
            continue
        mask, _, grad = node.args
        if not isinstance(grad, fx.Node) or grad.meta["val"].shape != node.meta["val"].shape:
            continue
        with graph.graph.inserting_before(node):
            passes = graph.graph.call_function(_ATEN.bitwise_not.default, (mask,))
            factor = graph.graph.call_function(_ATEN._to_copy.default, (passes,), {"dtype": grad.meta["val"].dtype})
            product = graph.graph.call_function(_ATEN.mul.Tensor, (grad, factor))
        passes.meta["val"] = mask.meta["val"]
        factor.meta["val"] = mask.meta["val"].to(grad.meta["val"].dtype)
        product.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(product)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def _is_zero(given: Any) -> bool:
    if isinstance(given, fx.Node) and given.target in (_ATEN.scalar_tensor.default, _ATEN.full.default):
        return bool(given.args[-1] == 0)
    return bool(isinstance(given, (int, float)) and given == 0)


def _same(compare: fx.Node, after: fx.Node) -> bool:
    """Whether a comparison of the input of ``after`` with a bound is the comparison of its output."""
    low, high = _bounds(after) or (None, None)
    return bool(compare.args[1] == (low if compare.target in _WITH_LOW else high))


def _bounds(node: fx.Node) -> tuple[Any, Any] | None:
    """The lowest and highest answer of an activation that clips; None where it is none."""
    if node.target is _ATEN.relu.default:
        return 0, None
    if node.target is _ATEN.hardtanh.default:
        bounds = (*node.args[1:], *(-1.0, 1.0)[len(node.args) - 1 :])
        return bounds[0], bounds[1]
    if node.target is _ATEN.clamp.default and len(node.args) == 3:
        return node.args[1], node.args[2]
    return None
