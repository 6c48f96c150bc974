"""A quantised ONNX graph as a torch module with float weights: what it rounds is rounded here, at the same places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import nn

from tierwise.operators._calibration import Range
from tierwise.operators._fake_quant import LearnedRange, rounded_weight
from tierwise.operators._onnx_ops import Function, torch_function

__all__ = ["IntegerModule"]

_TRAINED_OPS = frozenset({"Conv", "Gemm", "MatMul", "Add", "LayerNormalization"})
_SUFFIX = "_quantized"


@final
@dataclass(frozen=True)
class _Step:
    """One operator: what it computes, from which values, and the value it makes."""

    run: Function
    inputs: tuple[str, ...]
    output: str


@final
@dataclass(frozen=True)
class _Rounding:
    """How a weight is rounded: its index among the parameters, the axis with one scale each, the largest integer."""

    index: int
    axis: int | None
    limit: int


@final
class IntegerModule(nn.Module):
    """Runs the operators of ``graph``, a quantised model, on float weights.

    Every QuantizeLinear of an activation becomes a `LearnedRange`, the same one where the graph shares a scale; every
    integer weight becomes the float weight it was made of, rounded in the forward pass. Weights, biases and norms are
    trained, all else stays.

    Args:
        graph: A model that `tierwise.operators._quantise.quantised` gave.
        floating: The float model it was made of.
        ranges: With these ranges.
        weight_limit: Largest magnitude of an integer weight.

    Raises:
        InputError: The model has an operator that cannot be trained here; the message names it.
    """

    def __init__(
        self, graph: onnx.ModelProto, floating: onnx.ModelProto, ranges: Mapping[str, Range], weight_limit: int
    ) -> None:
        super().__init__()
        self._floats = {tensor.name: tensor for tensor in floating.graph.initializer}
        self._stored = {tensor.name: tensor for tensor in graph.graph.initializer}
        self._trainable = _trainable(floating)
        self.weights, self.ranges = nn.ModuleList(), nn.ModuleList()
        self._weight_index: dict[str, int] = {}
        self._range_of: dict[str, LearnedRange] = {}
        self._constants: dict[str, torch.Tensor] = {}
        self._aliases: dict[str, str] = {}
        self._rounded: dict[str, _Rounding] = {}
        self._steps: list[_Step] = []
        for node in graph.graph.node:
            self._add(node, ranges, weight_limit)
        self._inputs = [value.name for value in graph.graph.input if value.name not in self._stored]
        self._output = graph.graph.output[0].name
        self._spent = _spent(self._steps, self._aliases.get(self._output, self._output))
        del self._stored, self._trainable

    def _add(self, node: onnx.NodeProto, ranges: Mapping[str, Range], weight_limit: int) -> None:
        source = node.input[0] if node.input else ""
        if node.op_type == "QuantizeLinear":
            # The scale is named after the tensor whose range it covers.
            name = node.input[1].removesuffix("_scale")
            if name not in self._range_of:
                self._range_of[name] = LearnedRange(*ranges[name])
                self.ranges.append(self._range_of[name])
            self._steps.append(_Step(self._range_of[name], (self._value(source),), node.output[0]))
        elif node.op_type == "DequantizeLinear" and source in self._stored:
            self._add_weight(node, source, weight_limit)
        elif node.op_type == "DequantizeLinear":
            self._aliases[node.output[0]] = self._aliases.get(source, source)
        else:
            names = tuple(self._value(name) for name in node.input)
            self._steps.append(_Step(torch_function(node), names, node.output[0]))

    def _add_weight(self, node: onnx.NodeProto, source: str, limit: int) -> None:
        name, target = source.removesuffix(_SUFFIX), node.output[0]
        stored = onnx.numpy_helper.to_array(self._stored[source])
        if name not in self._floats or name not in self._trainable:
            self._constants[target] = torch.from_numpy(_dequantised(node, self._stored))
            return
        index = self._weight(name)
        if stored.dtype == np.int32:
            # A bias has so many levels that rounding it changes nothing.
            self._aliases[target] = name
            return
        per_axis = onnx.numpy_helper.to_array(self._stored[node.input[1]]).ndim == 1
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        self._rounded[target] = _Rounding(index, axis % stored.ndim if per_axis else None, limit)

    def _weight(self, name: str) -> int:
        if name not in self._weight_index:
            array = onnx.numpy_helper.to_array(self._floats[name])
            self._weight_index[name] = len(self.weights)
            self.weights.append(_Weight(torch.from_numpy(array.copy())))
        return self._weight_index[name]

    def _value(self, name: str) -> str:
        """The name under which the value ``name`` is found when the graph runs."""
        name = self._aliases.get(name, name)
        if name in self._stored and name not in self._constants and name not in self._weight_index:
            if name in self._trainable:
                self._weight(name)
            else:
                array = onnx.numpy_helper.to_array(self._stored[name])
                self._constants[name] = torch.from_numpy(array.copy())
        return name

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The model's first output for its inputs in their order."""
        values: dict[str, Any] = {**self._constants, **dict(zip(self._inputs, inputs, strict=True)), "": None}
        weights = [weight() for weight in self.weights]
        values |= {name: weights[index] for name, index in self._weight_index.items()}
        values |= {name: rounded_weight(weights[how.index], how.axis, how.limit) for name, how in self._rounded.items()}
        for step, spent in zip(self._steps, self._spent, strict=True):
            values[step.output] = step.run(*(values[name] for name in step.inputs))
            # Where no gradient keeps them, a large batch's values must not all be alive at once.
            for name in spent:
                del values[name]
        answer: torch.Tensor = values[self._aliases.get(self._output, self._output)]
        return answer

    def trained_model(self, floating: onnx.ModelProto) -> onnx.ModelProto:
        """``floating`` with the weights of this module."""
        model = onnx.ModelProto()
        model.CopyFrom(floating)
        for tensor in model.graph.initializer:
            if tensor.name in self._weight_index:
                weight = self.weights[self._weight_index[tensor.name]]().detach().contiguous()
                tensor.CopyFrom(onnx.numpy_helper.from_array(weight.numpy(), tensor.name))
        return model

    def learned_ranges(self) -> dict[str, Range]:
        """Range of every rounded activation by its name in the graph."""
        limits = {name: layer.limits().tolist() for name, layer in self._range_of.items()}
        return {name: (low, high) for name, (low, high) in limits.items()}


@final
class _Weight(nn.Module):
    """A weight as unit times value, where the unit is its usual size in that row and column.

    Folding batch norms leaves weights whose channels differ in size by orders of magnitude. With values near one
    everywhere, a step of the optimiser changes all of them by like shares.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        unit = _usual_size(weight)
        self.register_buffer("unit", unit, persistent=False)
        self.value = nn.Parameter(weight / unit)

    def forward(self) -> torch.Tensor:
        unit: torch.Tensor = self.unit  # type: ignore[assignment]
        return self.value * unit


def _spent(steps: Sequence[_Step], answer: str) -> list[tuple[str, ...]]:
    """For each step the values that nobody reads after it."""
    last: dict[str, int] = {}
    for position, step in enumerate(steps):
        last |= dict.fromkeys((*step.inputs, step.output), position)
    last.pop(answer, None)
    last.pop("", None)
    spent: list[list[str]] = [[] for _ in steps]
    for name, position in last.items():
        spent[position].append(name)
    return [tuple(names) for names in spent]


def _usual_size(weight: torch.Tensor) -> torch.Tensor:
    squares = weight.square()
    overall = squares.mean().sqrt().clamp_min(1e-8)
    if weight.ndim < 2:
        # A bias that starts at zero shall be able to leave it.
        return weight.abs() + 0.1 * overall.clamp_min(0.1)
    axes = range(weight.ndim)
    row, column = (squares.mean([i for i in axes if i != kept], keepdim=True).sqrt() for kept in (0, 1))
    return (row * column / overall).clamp_min(1e-4 * overall).expand_as(weight).contiguous()


def _trainable(model: onnx.ModelProto) -> set[str]:
    """Float tensors that training may change: those with at least one axis, read by operators that learn."""
    names = {name for node in model.graph.node if node.op_type in _TRAINED_OPS for name in node.input}
    return {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name in names and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 0
    }


def _dequantised(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> Any:
    arrays = [onnx.numpy_helper.to_array(stored[name]) for name in node.input]
    values, scale = arrays[0].astype(np.float32), arrays[1]
    zero = arrays[2].astype(np.float32) if len(arrays) > 2 else np.float32(0)
    if scale.ndim == 1:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), np.reshape(zero, shape)
    return ((values - zero) * scale).astype(np.float32)
