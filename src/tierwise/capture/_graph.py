"""The graph of a model, read from ONNX: nodes with their arithmetic, tensors with their size at every edge."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import onnx

from tierwise._errors import InputError
from tierwise.artifact import TensorSpec
from tierwise.capture._macs import node_macs
from tierwise.capture._shapes import TensorType, graph_inputs, infer, is_batched, subgraph_names, tensor_dtype

__all__ = ["Graph", "Node", "Tensor", "read_graph"]

# ONNX element types by their name in the Open Inference Protocol; others do not leave a process.
_DTYPES = {
    onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.FLOAT16: "FP16", onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.INT8: "INT8", onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64", onnx.TensorProto.BOOL: "BOOL",
}  # fmt: skip
_SCOPES = "pkg.torch.onnx.name_scopes"


@final
@dataclass(frozen=True)
class Tensor:
    """One tensor between two operators.

    Attributes:
        name: Its name in the ONNX graph.
        dtype: Open Inference Protocol name, or the ONNX name where the protocol has none.
        shape: Axes for a batch of 1.
        batch_axes: Axes that grow with the batch.
        bytes: Its size for a batch of 1.
        portable: Whether it can be sent to another process and batched there: a type of the protocol, and (where the
            model takes any batch) exactly one axis that is the batch itself, not the batch times something.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    batch_axes: tuple[int, ...]
    bytes: int
    portable: bool

    @property
    def spec(self) -> TensorSpec:
        """As a segment's border, -1 at the batch axis."""
        shape = tuple(-1 if axis in self.batch_axes else size for axis, size in enumerate(self.shape))
        return TensorSpec(name=self.name, dtype=self.dtype, shape=shape)


@final
@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        name: Its name in the ONNX graph (may be empty).
        op: Operator type.
        inputs: Tensors it reads, constants left out.
        outputs: Tensors it makes.
        macs: Multiply-accumulates for a batch of 1.
        label: Module path and operator, ``layers.0/Relu``; unique in the graph.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int
    label: str


@final
@dataclass(frozen=True)
class Graph:
    """A model's operators in an order in which they can run.

    Attributes:
        inputs: Names of the tensors a caller gives.
        outputs: Names of the tensors it answers.
        nodes: Operators in topological order.
        tensors: Every tensor that is not a constant, by name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one item through the whole model."""
        return sum(node.macs for node in self.nodes)


def read_graph(model: onnx.ModelProto) -> Graph:
    """Read a model's graph; nothing of the result refers to the model.

    Raises:
        InputError: An axis other than the batch is open, or a tensor's shape cannot be found.
    """
    batched = is_batched(model)
    one = infer(model, 1)
    two = infer(model, 2) if batched else one
    constants = _constants(model)
    tensors: dict[str, Tensor] = {}
    for name in (value.name for value in graph_inputs(model)):
        tensors[name] = _tensor(name, one, two, batched)
    nodes: list[Node] = []
    scopes: dict[str, str | None] = {}
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        outputs = tuple(name for name in node.output if name and name not in constants)
        if not outputs:
            continue
        for name in outputs:
            tensors[name] = _tensor(name, one, two, batched)
        reads = dict.fromkeys(name for name in (*node.input, *subgraph_names(node)) if name and name not in constants)
        scope = scopes[outputs[0]] = _scope(node, scopes)
        label = f"{scope}/{node.op_type}".removeprefix("/") if scope is not None else node.name.strip("/") or outputs[0]
        seen[label] += 1
        inputs = [one[name][1] if name in one else None for name in node.input]
        nodes.append(
            Node(
                name=node.name,
                op=node.op_type,
                inputs=tuple(reads),
                outputs=outputs,
                macs=node_macs(node, inputs, one[outputs[0]][1]),
                label=label if seen[label] == 1 else f"{label}#{seen[label]}",
            )
        )
    unknown = [name for node in nodes for name in node.inputs if name not in tensors]
    if unknown:
        raise InputError("every operator must come after those it reads from", got=repr(unknown[0]), where="ONNX graph")
    return Graph(
        inputs=tuple(value.name for value in graph_inputs(model)),
        outputs=tuple(value.name for value in model.graph.output),
        nodes=tuple(nodes),
        tensors=tensors,
    )


def _constants(model: onnx.ModelProto) -> set[str]:
    """Initializers and whatever is computed from nothing but them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    for node in model.graph.node:
        reads = [name for name in (*node.input, *subgraph_names(node)) if name]
        if all(name in constants for name in reads):
            constants.update(name for name in node.output if name)
    return constants - {value.name for value in model.graph.output}


def _tensor(name: str, one: Mapping[str, TensorType], two: Mapping[str, TensorType], batched: bool) -> Tensor:
    if name not in one or name not in two:
        raise InputError("the shape of every tensor must be known", got="none", where=f"tensor {name!r}")
    element, shape = one[name]
    other = two[name][1]
    axes = tuple(axis for axis, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b)
    clean = len(shape) == len(other) and [(shape[axis], other[axis]) for axis in axes] == [(1, 2)]
    return Tensor(
        name=name,
        dtype=_DTYPES.get(element, onnx.TensorProto.DataType.Name(element)),
        shape=shape,
        batch_axes=axes,
        bytes=math.prod(shape) * tensor_dtype(element).itemsize,
        portable=element in _DTYPES and (clean or not batched),
    )


def _scope(node: onnx.NodeProto, scopes: Mapping[str, str | None]) -> str | None:
    """The module path an exporter left in the node; quantise/dequantise pairs stand where their tensor was made.

    "" is the model itself; None means that nothing is known.
    """
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            path = ast.literal_eval(entry.value)
            # The path ends with the operator itself.
            return next((str(part) for part in reversed(path[:-1]) if part and "hook" not in part), "")
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return scopes.get(node.input[0])
    return None
