"""Masks that wait for the backward pass, eight to a byte: packed by operators that every engine has."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

__all__ = ["pack_masks"]

_LEAST = 4096  # of smaller masks the operators would cost more than the bytes are worth
_POWERS = np.array([1, 2, 4, 8, 16, 32, 64, 128], np.uint8)
_COLUMN, _ROW, _SHAPE = "bits.column", "bits.row", "bits.shape"


def pack_masks(model: onnx.ModelProto) -> int:
    """Keep masks as bits between what makes them and what reads them; the number of masks.

    Packed: eight elements times their powers of two, summed (MatMulInteger). Unpacked: what a byte has in common with
    each power (BitwiseAnd), as a truth value. No number changes (Lin et al., arXiv 2206.15472, section 3).

    Args:
        model: An optimised graph with the types of all its tensors; changed in place. Masks are truth values that
            are read as numbers and as nothing else, of a multiple of eight elements.
    """
    shapes = dict(_masks(model.graph))
    if not shapes:
        return 0
    made: list[onnx.NodeProto] = []
    for at, node in enumerate(model.graph.node):
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        for i, name in enumerate(node.input):
            if name in shapes:
                copy.input[i] = _unpack(model.graph, made, name, shapes[name], f"{name}.bits.{at}")
        made.append(copy)
        for name in node.output:
            if name in shapes:
                _pack(model.graph, made, name, shapes[name])
    del model.graph.node[:]
    model.graph.node.extend(made)
    constants = {_COLUMN: _POWERS[:, None], _ROW: _POWERS[None], _SHAPE: np.array([-1, 8], np.int64)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return len(shapes)


def _masks(graph: onnx.GraphProto) -> Iterator[tuple[str, list[int]]]:
    made = {name for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    wanted = {value.name for value in graph.output}
    for value in graph.value_info:
        shape = [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        is_mask = value.type.tensor_type.elem_type == TensorProto.BOOL and readers.get(value.name) == {"Cast"}
        inside = value.name in made and value.name not in wanted
        if is_mask and inside and math.prod(shape) >= _LEAST and math.prod(shape) % 8 == 0:
            yield value.name, shape


def _pack(graph: onnx.GraphProto, made: list[onnx.NodeProto], name: str, shape: list[int]) -> None:
    steps = [f"{name}.{step}" for step in ("bytes", "rows", "sums", "bits")]
    made += [
        make_node("Cast", [name], [steps[0]], f"{name}.pack.0", to=TensorProto.UINT8),
        make_node("Reshape", [steps[0], _SHAPE], [steps[1]], f"{name}.pack.1"),
        make_node("MatMulInteger", [steps[1], _COLUMN], [steps[2]], f"{name}.pack.2"),
        make_node("Cast", [steps[2]], [steps[3]], f"{name}.pack.3", to=TensorProto.UINT8),
    ]
    rows, kinds = math.prod(shape) // 8, (TensorProto.UINT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.UINT8)
    sizes = (shape, [rows, 8], [rows, 1], [rows, 1])
    graph.value_info.extend(map(make_tensor_value_info, steps, kinds, sizes))


def _unpack(graph: onnx.GraphProto, made: list[onnx.NodeProto], name: str, shape: list[int], result: str) -> str:
    """Name of the mask as it was, for one reader."""
    rows, whole = [math.prod(shape) // 8, 8], f"{result}.shape"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), whole))
    made += [
        make_node("BitwiseAnd", [f"{name}.bits", _ROW], [f"{result}.and"], f"{result}.unpack.0"),
        make_node("Cast", [f"{result}.and"], [f"{result}.truth"], f"{result}.unpack.1", to=TensorProto.BOOL),
        make_node("Reshape", [f"{result}.truth", whole], [result], f"{result}.unpack.2"),
    ]
    kinds = (TensorProto.UINT8, TensorProto.BOOL, TensorProto.BOOL)
    names = (f"{result}.and", f"{result}.truth", result)
    graph.value_info.extend(map(make_tensor_value_info, names, kinds, (rows, rows, shape)))
    return result
