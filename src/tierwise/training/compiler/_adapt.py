"""Adapters put into a captured model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch import fx

from tierwise._errors import SpecError
from tierwise._seeds import stream
from tierwise.artifact import Adapter
from tierwise.training._adapter import LoRA
from tierwise.training.compiler._model import Model

__all__ = ["adapt"]

_ATEN = torch.ops.aten


def adapt(model: Model, lora: Mapping[str, LoRA]) -> Model:
    """``model`` with an adapter beside every linear layer whose name fits a pattern; it answers as before.

    Args:
        model: Left as it is.
        lora: Adapters by patterns of layer names (``*`` stands for anything); of several that fit, the first counts.

    Raises:
        SpecError: A pattern that fits no linear layer, a rank above what the layer can have, or a weight that the model
            uses in more than one place.
    """
    if not lora:
        return model
    graph = _copied(model.graph)
    linears = dict(_linears(graph))
    for pattern in lora:
        if not any(fnmatchcase(name, pattern) for name in linears):
            raise SpecError(
                "a pattern of adapters must fit a linear layer",
                got=pattern,
                where="scheme.lora",
                fix=f"Linear layers: {', '.join(linears)}",
            )
    made = []
    for name, node in linears.items():
        fitting = next((one for pattern, one in lora.items() if fnmatchcase(name, pattern)), None)
        if fitting is not None:
            made.append(_beside(graph, name, node, fitting))
    graph.graph.lint()
    graph.recompile()
    return Model(graph, model.inputs, tuple(made))


def _copied(graph: fx.GraphModule) -> fx.GraphModule:
    """The nodes anew, tensors shared."""
    nodes = fx.Graph()
    nodes.output(nodes.graph_copy(graph.graph, {}))
    nodes.set_codegen(graph.graph._codegen)  # how inputs are packed
    return fx.GraphModule(graph, nodes)


def _linears(graph: fx.GraphModule) -> Iterator[tuple[str, fx.Node]]:
    for node in graph.graph.nodes:
        weight = node.args[1] if node.target is _ATEN.linear.default else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            yield str(weight.target).rpartition(".")[0], node


def _beside(graph: fx.GraphModule, name: str, node: fx.Node, lora: LoRA) -> Adapter:
    x, held = node.args[0], node.args[1]
    if not isinstance(x, fx.Node) or not isinstance(held, fx.Node) or len(held.users) != 1:
        raise SpecError(
            "an adapter's weight must be used in one place",
            got=f"{held} is shared",
            where=f"scheme.lora for {name}",
            fix="Leave that layer out",
        )
    owner = graph.get_submodule(name)
    outputs, inputs = getattr(owner, str(held.target).rpartition(".")[2]).shape
    if lora.rank > min(outputs, inputs):
        raise SpecError(
            f"a rank must be at most {min(outputs, inputs)}, the layer's smaller side",
            got=lora.rank,
            where=f"scheme.lora for {name}",
        )
    # A unit-variance input stays one behind A.
    values = stream(0, "lora", name).standard_normal((lora.rank, inputs)) * inputs**-0.5
    owner.register_parameter("lora_a", torch.nn.Parameter(torch.from_numpy(values).float()))
    owner.register_parameter("lora_b", torch.nn.Parameter(torch.zeros(outputs, lora.rank)))
    names = [f"{name}.{leaf}" if name else leaf for leaf in ("lora_a", "lora_b")]
    with graph.graph.inserting_after(node):
        total = graph.graph.call_function(_ATEN.add.Tensor, (node, node))
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    with graph.graph.inserting_before(total):
        down, up = (graph.graph.get_attr(one) for one in names)
        part = graph.graph.call_function(_ATEN.linear.default, (x, down))
        part = graph.graph.call_function(_ATEN.linear.default, (part, up))
        if lora.scale != 1:
            part = graph.graph.call_function(_ATEN.mul.Tensor, (part, lora.scale))
    total.args = (node, part)
    return Adapter(weight=str(held.target), down=names[0], up=names[1], scale=lora.scale)
