"""Multiply-accumulates of one ONNX operator, from its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

__all__ = ["COMPUTE_OPS", "node_macs"]

# Position of the weight (convolutions) or of both factors (products) among the inputs. The integer operators carry a
# scale and a zero point after each tensor; names are those of ONNX and of ONNX Runtime's com.microsoft domain.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = {
    "MatMul": (0, 1), "FusedMatMul": (0, 1), "MatMulInteger": (0, 1), "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3),
}  # fmt: skip
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

COMPUTE_OPS = frozenset({*_CONVOLUTIONS, *_PRODUCTS, *_GATES, "ConvTranspose", "Einsum"})
"""Operators that count as arithmetic; every other one has 0 MACs."""

Shape = tuple[int, ...]


def node_macs(node: onnx.NodeProto, inputs: Sequence[Shape | None], output: Shape | None) -> int:
    """Multiply-accumulates of ``node``.

    Args:
        node: The operator.
        inputs: Shape of each input in its order (None: absent or unknown).
        output: Shape of its first output.

    Returns:
        0 for operators without arithmetic to speak of (element by element, pooling, normalisation) and where a shape
        needed is unknown.
    """
    if node.op_type in _CONVOLUTIONS:
        # Every output element is a sum over the weight's [channels / groups, kernel...].
        weight = _at(inputs, _CONVOLUTIONS[node.op_type])
        return 0 if weight is None or output is None else math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        # Weight [in, out / groups, kernel...]: every input element meets all of weight[channel].
        source, weight = _at(inputs, 0), _at(inputs, 1)
        return 0 if source is None or weight is None else math.prod(source) * math.prod(weight[1:])
    if node.op_type in _PRODUCTS:
        first = _at(inputs, _PRODUCTS[node.op_type][0])
        if not first or output is None:
            return 0
        return math.prod(output) * (first[-2] if _flag(node, "transA") and len(first) > 1 else first[-1])
    if node.op_type in _GATES:
        return _recurrent(inputs, _GATES[node.op_type])
    if node.op_type == "Einsum":
        return _einsum(node, inputs)
    return 0


def _at(shapes: Sequence[Shape | None], index: int) -> Shape | None:
    return shapes[index] if index < len(shapes) else None


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def _recurrent(inputs: Sequence[Shape | None], gates: int) -> int:
    source, recurrence = _at(inputs, 0), _at(inputs, 2)
    if source is None or recurrence is None:
        return 0
    steps, batch, features = source
    directions, hidden = recurrence[0], recurrence[2]
    return steps * batch * directions * gates * hidden * (features + hidden)


def _einsum(node: onnx.NodeProto, inputs: Sequence[Shape | None]) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) < 2 or any(shape is None for shape in inputs):
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        sizes.update(zip(term, shape or (), strict=False))
    return math.prod(sizes.values())
