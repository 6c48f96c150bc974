"""What never changes goes in front: the frozen prefix as a graph for inference, the rest as the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import fx

from tierwise.training.compiler._joint import Joint

__all__ = ["Part", "divide", "whole"]

_ATEN = torch.ops.aten
_WORK = (_ATEN.convolution.default, _ATEN.mm.default, _ATEN.addmm.default, _ATEN.bmm.default)


@final
@dataclass(frozen=True)
class Part:
    """A graph of its own, weights inside.

    Attributes:
        graph: Takes ``inputs`` in order, gives ``outputs`` in order.
        inputs: Names.
        outputs: Names.
    """

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def divide(joint: Joint) -> tuple[Part | None, Part]:
    """The frozen prefix (None where it would hold no arithmetic) and the step behind it.

    A node belongs to the prefix when it is of the forward pass and depends on the model's inputs and on frozen tensors
    only; what the backward pass makes of these (shifted copies, say) is made behind the border, when it is needed. What
    depends on frozen tensors alone is copied to where it is needed.
    """
    nodes = list(joint.graph.graph.nodes)
    kind: dict[fx.Node, str] = {}
    holders = [node for node in nodes if node.op == "placeholder"]
    for node, what in zip(holders, joint.kinds, strict=True):
        kind[node] = {"input": "input", "frozen": "constant"}.get(what, "changing")
    loss, behind_loss = _results(joint)[0], False
    for node in nodes:
        if node not in kind:
            made_of = {kind[given] for given in node.all_input_nodes}
            kind[node] = next((k for k in ("changing", "input") if k in made_of), "constant")
            if behind_loss and kind[node] == "input":
                kind[node] = "changing"
        behind_loss = behind_loss or node is loss
    if not any(kind[node] == "input" and node.target in _WORK for node in nodes):
        return None, whole(joint)
    border = [
        node
        for node in nodes
        if kind[node] == "input" and node.op != "placeholder" and any(kind[user] == "changing" for user in node.users)
    ]
    tensors = [node for node in border if isinstance(node.meta.get("val"), torch.Tensor)]
    named = {node: f"border.{i}" for i, node in enumerate(tensors)}
    inputs = [name for name, what in zip(joint.names, joint.kinds, strict=True) if what == "input"]
    rest = [name for name, what in zip(joint.names, joint.kinds, strict=True) if what != "frozen"]
    prefix = _part(joint, inputs, [(name, node) for node, name in named.items()], {})
    step = _part(joint, rest, list(zip(joint.outputs, _results(joint), strict=True)), named)
    return prefix, step


def whole(joint: Joint) -> Part:
    """The frozen prefix and the step in one graph."""
    names = [name for name, what in zip(joint.names, joint.kinds, strict=True) if what != "frozen"]
    return _part(joint, names, list(zip(joint.outputs, _results(joint), strict=True)), {})


def _results(joint: Joint) -> Sequence[fx.Node]:
    output = next(node for node in joint.graph.graph.nodes if node.op == "output")
    return list(output.args[0])


def _part(
    joint: Joint, inputs: Sequence[str], outputs: Sequence[tuple[str, fx.Node]], given: dict[fx.Node, str]
) -> Part:
    """The nodes that ``outputs`` need, from ``inputs`` (those that are used) and ``given``."""
    needed = _needed([node for _, node in outputs], set(given))
    holders = dict(zip([n for n in joint.graph.graph.nodes if n.op == "placeholder"], joint.names, strict=True))
    used: list[str] = []
    graph, held, copies = fx.Graph(), torch.nn.Module(), dict[fx.Node, fx.Node]()
    for node, name in given.items():
        if node in needed:
            copies[node] = graph.placeholder(f"given_{len(used)}")
            used.append(name)
            copies[node].meta = dict(node.meta)
    for node, name in holders.items():
        if node in needed and name in inputs:
            copies[node] = graph.placeholder(f"given_{len(used)}")
            used.append(name)
            copies[node].meta = dict(node.meta)
    for node in joint.graph.graph.nodes:
        if node not in needed or node in copies or node.op == "output":
            continue
        if node.op in ("placeholder", "get_attr"):
            value = joint.frozen[holders[node]] if node in holders else getattr(joint.graph, str(node.target))
            target = f"held_{len(copies)}"
            held.register_buffer(target, value.detach().clone())
            copies[node] = graph.get_attr(target)
            copies[node].meta = dict(node.meta)
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for _, node in outputs))
    return Part(fx.GraphModule(held, graph), tuple(used), tuple(name for name, _ in outputs))


def _needed(ends: Sequence[fx.Node], stop: set[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(ends)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        if node not in stop:
            pending += node.all_input_nodes
    return found
