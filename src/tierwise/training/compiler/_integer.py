"""A model in 8-bit integers that can be differentiated: the graph that integer training runs on.

Lin et al., "On-Device Training Under 256KB Memory" (arXiv 2206.15472), section 2.1: weights are int8 with a scale for
each output channel, biases int32 at the scale of weight times input, activations int8 with a scale and a zero point
that calibration fixed. Gradients are floating point, of the integers themselves; rounding passes them on, clipping
stops them.

Integers are held as float32, whose products and sums are exact up to 2**24: the graph gives what an integer engine
gives, and autograd works on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import fx

from tierwise._errors import InputError
from tierwise.training.compiler._model import Model, is_check

__all__ = ["Grid", "IntegerModel", "quantise"]

_ATEN = torch.ops.aten
_CONV, _LINEAR = _ATEN.conv2d.default, _ATEN.linear.default
# What follows a convolution in the same integer kernel: its result is rounded once, behind the activation.
_ACTIVATIONS = {_ATEN.relu.default, _ATEN.relu_.default, _ATEN.hardtanh.default, _ATEN.hardtanh_.default}
_ACTIVATIONS |= {_ATEN.clamp.default, _ATEN.clamp_.default, _ATEN.relu6.default, _ATEN.relu6_.default}
_WEIGHT_LIMIT, _LOW, _HIGH = 127, -128, 127


@final
@dataclass(frozen=True)
class Grid:
    """Which numbers an activation can be: ``scale * (q - zero)`` for q in [-128, 127].

    Attributes:
        scale: Distance of two neighbours.
        zero: The q of 0.
    """

    scale: float
    zero: int

    def snap(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest number; the gradient passes, except where the number is clipped."""
        return _rounded(torch.clamp(x / self.scale, _LOW - self.zero, _HIGH - self.zero)) * self.scale


@final
class _Round(torch.autograd.Function):
    """Rounds; the gradient passes (Bengio et al., arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def _rounded(x: torch.Tensor) -> torch.Tensor:
    rounded: torch.Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


@final
class IntegerModel:
    """A model whose layers, all but the last, compute in integers.

    The last layer stays in floating point, as the paper keeps the classifier. A weight that was all zeros in a channel
    has the scale 1 there.

    Attributes:
        inputs: Names of its inputs, in order.
        tensors: By parameter name: int8 weights and int32 biases as float32 integers, and all others as they were.
        scales: By parameter name, of the integers: what one step of it is worth, in the shape of the tensor's first
            axis and ones.
        grids: Of activations, by the name of the graph's node.
    """

    def __init__(
        self,
        model: Model,
        tensors: Mapping[str, torch.Tensor],
        scales: Mapping[str, torch.Tensor],
        grids: Mapping[str, Grid],
    ) -> None:
        self._model = model
        self.inputs = model.inputs
        self.tensors, self.scales, self.grids = dict(tensors), dict(scales), dict(grids)

    def __call__(self, inputs: tuple[torch.Tensor, ...], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The first output, in floating point.

        Args:
            inputs: In the order of `inputs`; rounded to their grid here.
            tensors: All of `tensors`, or what takes their place. What has a scale is rounded to integers here, and
                gradients are of these.
        """
        return _first(_Integers(self._model.graph, tensors, self.scales, self.grids).run(*inputs))

    @property
    def graph(self) -> fx.GraphModule:
        """The operators; every one whose name has a grid is rounded to it."""
        return self._model.graph

    def values(self, inputs: tuple[torch.Tensor, ...], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What every rounded operator gives, by its name, in floating point; arguments as of a call."""
        run = _Integers(self._model.graph, tensors, self.scales, self.grids, garbage_collect_values=False)
        with torch.no_grad():
            run.run(*inputs)
        return {node.name: value for node, value in run.env.items() if node.name in self.grids}

    def real(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What an integer tensor is worth."""
        return tensor * self.scales[name] if name in self.scales else tensor


def quantise(model: Model, batches: Sequence[tuple[torch.Tensor, ...]]) -> IntegerModel:
    """Integers for the tensors of ``model``, scales for them and for its activations.

    Args:
        model: Norms folded, as `read_model` does it.
        batches: Model inputs; the range of every activation is what it takes on these.

    Raises:
        InputError: No batch, or a model without two layers that are convolutions or linear.
    """
    if not batches:
        raise InputError("activations are given a range by at least one batch", got="none", where="calibration")
    seen = _Ranges(model)
    with torch.no_grad():
        for inputs in batches:
            seen.run(*inputs)
    grids = {name: _grid(low, high) for name, (low, high) in seen.found.items()}
    kernels = [node for node in model.graph.graph.nodes if node.target in (_CONV, _LINEAR) and _plain(node, grids)]
    if len(kernels) < 2:
        raise InputError(
            "integer training needs two layers, one of integers and a last one in floating point",
            got=f"{len(kernels)} convolutions and linear layers",
            where="the model",
        )
    tensors, scales = {name: tensor.detach() for name, tensor in model.tensors.items()}, dict[str, torch.Tensor]()
    for node in kernels[:-1]:
        weight, bias = str(node.args[1].target), node.args[2] if len(node.args) > 2 else None
        largest = tensors[weight].flatten(1).abs().amax(1)
        step = torch.where(largest > 0, largest / _WEIGHT_LIMIT, torch.ones_like(largest))
        scales[weight] = step.reshape(-1, *[1] * (tensors[weight].ndim - 1))
        tensors[weight] = (tensors[weight] / scales[weight]).round()
        if isinstance(bias, fx.Node):
            name = str(bias.target)
            scales[name] = step * grids[_source(node).name].scale
            tensors[name] = (tensors[name] / scales[name]).round()
    return IntegerModel(model, tensors, scales, grids)


@final
class _Ranges(fx.Interpreter):
    """Smallest and largest value of every activation that is rounded, over all runs."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.graph)
        self._tensors = model.tensors
        self.found: dict[str, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if is_check(n):
            return None
        if n.op == "get_attr":
            return self._tensors[str(n.target)]
        value = super().run_node(n)
        if _rounds(n, value):
            low, high = self.found.get(n.name, (0.0, 0.0))
            self.found[n.name] = min(low, float(value.min())), max(high, float(value.max()))
        return value


@final
class _Integers(fx.Interpreter):
    def __init__(
        self,
        graph: fx.GraphModule,
        tensors: Mapping[str, torch.Tensor],
        scales: Mapping[str, torch.Tensor],
        grids: Mapping[str, Grid],
        *,
        garbage_collect_values: bool = True,
    ) -> None:
        super().__init__(graph, garbage_collect_values=garbage_collect_values)
        self._tensors, self._scales, self._grids = tensors, scales, grids

    def run_node(self, n: fx.Node) -> Any:
        if is_check(n):
            return None
        if n.op == "get_attr":
            tensor = self._tensors[str(n.target)]
            return _rounded(tensor) if str(n.target) in self._scales else tensor
        if n.target in (_CONV, _LINEAR) and isinstance(n.args[1], fx.Node) and str(n.args[1].target) in self._scales:
            value = self._kernel(n)
        else:
            value = super().run_node(n)
        grid = self._grids.get(n.name)
        return value if grid is None else grid.snap(value)

    def _kernel(self, n: fx.Node) -> torch.Tensor:
        """Integers times integers, plus integers; then what one of the sum is worth, for each output channel."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        scale = self._grids[_source(n).name].scale
        # The input lies on its grid: what is rounded away is the error of the division.
        total: torch.Tensor = n.target(_rounded(args[0] / scale), *args[1:], **kwargs)  # type: ignore[operator]
        step = self._scales[str(n.args[1].target)].flatten() * scale  # type: ignore[union-attr]
        return total * step.reshape(-1, 1, 1) if n.target is _CONV else total * step


def _source(node: fx.Node) -> fx.Node:
    """The node whose numbers arrive at ``node``: reshaping in between changes none of them."""
    given = node
    while given is node or (given.op == "call_function" and _keeps(given)):
        (given, *_) = given.all_input_nodes
    return given


_RESHAPED = ("view", "flatten", "reshape", "squeeze", "unsqueeze", "dropout", "contiguous", "clone", "permute", "alias")


def _keeps(node: fx.Node) -> bool:
    return any(f"aten.{word}" in str(node.target) for word in _RESHAPED)


def _plain(node: fx.Node, grids: Mapping[str, Grid]) -> bool:
    """A kernel whose weight is a parameter of its own, and whose input lies on a grid."""
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or len(weight.users) != 1:
        return False
    return _source(node).name in grids


def _rounds(node: fx.Node, value: object) -> bool:
    """Whether the numbers of ``node`` are rounded: not where the kernel goes on with an activation."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or node.op == "output" or _keeps(node):
        return False
    users = list(node.users)
    if len(users) == 1 and (users[0].target in _ACTIVATIONS or users[0].op == "output"):
        return False
    return bool(users)


def _grid(low: float, high: float) -> Grid:
    scale = max(high - low, 1e-8) / (_HIGH - _LOW)
    return Grid(scale, round(_LOW - low / scale))


def _first(outputs: Any) -> torch.Tensor:
    first: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs))
    return first
