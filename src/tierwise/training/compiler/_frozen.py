"""Frozen weights out of the graphs into one file: an engine maps it, and graphs that read the same weight share it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

from tierwise.artifact import Trained
from tierwise.training._frozen import places
from tierwise.training._tensor_file import pack

__all__ = ["frozen_apart", "without"]

_LEAST_BYTES = 1024  # smaller ones are bounds, shapes and biases, of which ONNX Runtime folds and fuses
_KINDS = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.UINT8}


def frozen_apart(graphs: Mapping[str, onnx.ModelProto], file: str) -> bytes:
    """Move the weights of ``graphs`` into one file and leave where they stand in it; the content of that file.

    Args:
        graphs: By name; changed in place. What a caller may override (an input) stays.
        file: Name of the file, beside the graphs.
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    moved: list[tuple[onnx.TensorProto, str]] = []
    for model in graphs.values():
        renamed: dict[str, str] = {}
        kept = [_copied(tensor) for tensor in model.graph.initializer]
        del model.graph.initializer[:]
        for tensor in kept:
            if not _moves(tensor, model.graph):
                model.graph.initializer.append(tensor)
                continue
            name = _name(tensor)
            if name not in renamed.values():
                model.graph.initializer.append(tensor)
                moved.append((model.graph.initializer[-1], name))
            renamed[tensor.name] = name
            tensors[name] = onnx.numpy_helper.to_array(tensor)
        _rename(model.graph, renamed)
    content = pack(tensors)
    spans = places(content)
    for tensor, name in moved:
        first, count, _ = spans[name]
        tensor.name = name
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", first), ("length", count)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return content


def without(model: onnx.ModelProto, trained: Sequence[Trained]) -> onnx.ModelProto:
    """A copy of ``model`` that has no values of its trained tensors: whoever runs it gives them."""
    given = {one.tensor for one in trained}
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    kept = [_copied(tensor) for tensor in copy.graph.initializer if tensor.name not in given]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def _moves(tensor: onnx.TensorProto, graph: onnx.GraphProto) -> bool:
    fixed = {value.name for value in (*graph.input, *graph.output)}
    return tensor.name not in fixed and len(tensor.raw_data) >= _LEAST_BYTES and tensor.data_type in _KINDS


def _name(tensor: onnx.TensorProto) -> str:
    """A name that says what the tensor holds, so that it is the same in all graphs."""
    about = f"{tensor.data_type} {list(tensor.dims)} ".encode()
    return f"frozen.{hashlib.sha256(about + tensor.raw_data).hexdigest()[:24]}"


def _rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # its own names are others: a graph holds each name once
                _rename(attribute.g, renamed)


def _copied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.TensorProto.FromString(tensor.SerializeToString())
