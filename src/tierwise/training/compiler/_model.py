"""A captured model, ready to be differentiated: norms folded, parameters grouped into layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import fx

from tierwise._errors import InputError
from tierwise.artifact import Adapter, Trained
from tierwise.capture import trace
from tierwise.training.compiler._narrow_grad import narrow_conv2d, narrow_linear
from tierwise.training.compiler._unsplit import unsplit

__all__ = ["Layer", "Model", "is_check", "read_model"]

_ATEN = torch.ops.aten
_CONV, _LINEAR = _ATEN.conv2d.default, _ATEN.linear.default
_NOT_RUN = ("_assert", "sym_constrain", "_guards_fn")


@final
@dataclass(frozen=True)
class Layer:
    """A module that owns parameters.

    Attributes:
        name: The module's name.
        parameters: Its parameters, in the order of their use.
        computes: Whether it has a weight with two axes or more (norms do not).
        sliceable: Whether a share of its weight's input channels can be trained alone.
    """

    name: str
    parameters: tuple[str, ...]
    computes: bool
    sliceable: bool


@final
class Model:
    """A captured graph with its tensors by name; runs with any of them replaced.

    Attributes:
        inputs: Names of its inputs, in order.
        tensors: Parameters, buffers and constants that the graph uses.
        layers: Owners of parameters, in the order of their first use.
        adapters: What was put beside weights.
        graph: What runs.
    """

    def __init__(self, graph: fx.GraphModule, inputs: tuple[str, ...], adapters: tuple[Adapter, ...] = ()) -> None:
        self.graph = graph
        self.inputs = inputs
        self.adapters = adapters
        self.tensors: dict[str, torch.Tensor] = {
            str(node.target): _attribute(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"
        }
        self.layers = tuple(_layers(graph))

    def __call__(
        self,
        inputs: tuple[torch.Tensor, ...],
        tensors: Mapping[str, torch.Tensor],
        slices: Mapping[str, tuple[Trained, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """The first output.

        Args:
            inputs: In the order of `inputs`.
            tensors: All of `tensors`, or what takes their place.
            slices: For weights of which some input channels are trained: which, and their values.
        """
        outputs = _Run(self.graph, tensors, slices or {}).run(*inputs)
        first: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs))
        return first


@final
class _Run(fx.Interpreter):
    def __init__(
        self,
        graph: fx.GraphModule,
        tensors: Mapping[str, torch.Tensor],
        slices: Mapping[str, tuple[Trained, torch.Tensor]],
    ) -> None:
        super().__init__(graph)
        self._tensors, self._slices = tensors, slices

    def run_node(self, n: fx.Node) -> Any:
        if is_check(n):
            return None
        if n.op == "get_attr":
            return self._tensors[str(n.target)]
        weight = n.args[1] if n.target in (_CONV, _LINEAR) else None
        if isinstance(weight, fx.Node) and str(weight.target) in self._slices:
            trained, part = self._slices[str(weight.target)]
            args, _ = self.fetch_args_kwargs_from_env(n)
            narrow = narrow_conv2d if n.target is _CONV else narrow_linear
            return narrow(part, trained.channels, *args)
        return super().run_node(n)


def is_check(node: fx.Node) -> bool:
    """Whether a node only checks shapes, which are fixed here, and computes nothing."""
    return any(word in str(node.target) for word in _NOT_RUN)


def read_model(module: torch.nn.Module, example: Mapping[str, torch.Tensor]) -> Model:
    """Capture ``module`` and fold its batch norms, with the statistics they have, into the convolutions before them.

    Raises:
        InputError: As `tierwise.capture.trace`, or the model has no parameters.
    """
    graph = trace(module, example)
    _tie(graph)
    unsplit(graph)
    for node in list(graph.graph.nodes):
        _fold(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    model = Model(graph, tuple(example))
    if not model.layers:
        raise InputError("a model to train must have parameters", where=type(module).__name__)
    return model


def _tie(graph: fx.GraphModule) -> None:
    """A tensor that stands under several names keeps the first alone, or training would let copies drift apart."""
    first: dict[int, str] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            node.target = first.setdefault(id(_attribute(graph, str(node.target))), str(node.target))


def _fold(graph: fx.GraphModule, norm: fx.Node) -> None:
    """conv(w, b), then (y - m) / sqrt(v + eps) * g + h, is conv(w s, (b - m) s + h) with s = g / sqrt(v + eps)."""
    if norm.target is not _ATEN.batch_norm.default:
        return
    conv, gain, shift, mean, variance, _, _, eps, _ = norm.args
    if not isinstance(conv, fx.Node) or conv.target is not _CONV or len(conv.users) != 1:
        return
    args = [*conv.args, None][:3] + list(conv.args[3:])
    held = [node for node in (args[1], mean, variance) if isinstance(node, fx.Node) and node.op == "get_attr"]
    if len(held) != 3 or len(held[0].users) != 1:
        return
    kernel, m, v = (_attribute(graph, str(node.target)).detach() for node in held)
    g = torch.ones_like(m) if gain is None else _attribute(graph, str(gain.target)).detach()  # type: ignore[union-attr]
    h = torch.zeros_like(m) if shift is None else _attribute(graph, str(shift.target)).detach()  # type: ignore[union-attr]
    old = args[2]
    b = torch.zeros_like(m) if old is None else _attribute(graph, str(old.target)).detach()  # type: ignore[union-attr]
    scale = g / torch.sqrt(v + cast(float, eps))
    owner, _, leaf = str(held[0].target).rpartition(".")
    module = graph.get_submodule(owner)
    module.register_parameter(leaf, torch.nn.Parameter(kernel * scale[:, None, None, None]))
    module.register_parameter("bias", torch.nn.Parameter((b - m) * scale + h))
    with graph.graph.inserting_before(conv):
        args[2] = graph.graph.get_attr(f"{owner}.bias" if owner else "bias")
    conv.args = tuple(args)
    norm.replace_all_uses_with(conv)
    graph.graph.erase_node(norm)


def _attribute(graph: fx.GraphModule, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor = getattr(graph.get_submodule(owner), leaf)
    if not isinstance(tensor, torch.Tensor):
        raise InputError("a captured model must hold tensors only", got=type(tensor).__name__, where=name)
    return tensor


def _layers(graph: fx.GraphModule) -> Iterator[Layer]:
    owned: dict[str, dict[str, None]] = {}
    sliceable: set[str] = set()
    for node in graph.graph.nodes:
        if node.op != "get_attr" or not isinstance(_attribute(graph, node.target), torch.nn.Parameter):
            continue
        owner = str(node.target).rpartition(".")[0]
        owned.setdefault(owner, {})[str(node.target)] = None
        if len(node.users) == 1 and _takes_slice(next(iter(node.users)), node):
            sliceable.add(owner)
    for owner, names in owned.items():
        computes = any(_attribute(graph, name).ndim > 1 for name in names)
        yield Layer(owner, tuple(names), computes, owner in sliceable)


def _takes_slice(user: fx.Node, weight: fx.Node) -> bool:
    if user.target is _LINEAR:
        return bool(user.args[1] is weight)
    groups = user.args[6] if len(user.args) > 6 else 1
    return bool(user.target is _CONV and user.args[1] is weight and groups == 1)
