"""Cutting a model in two valid models, and proving that together they are the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx

from tierwise._errors import InputError
from tierwise.artifact import TensorSpec
from tierwise.capture._cuts import Cut
from tierwise.capture._shapes import graph_inputs, subgraph_names

__all__ = ["Affine", "composition_error", "run", "split"]

Feeds = Mapping[str, npt.NDArray[Any]]
_ELEMENTS = {
    "FP32": onnx.TensorProto.FLOAT, "FP16": onnx.TensorProto.FLOAT16, "FP64": onnx.TensorProto.DOUBLE,
    "UINT8": onnx.TensorProto.UINT8, "INT8": onnx.TensorProto.INT8, "INT32": onnx.TensorProto.INT32,
    "INT64": onnx.TensorProto.INT64, "BOOL": onnx.TensorProto.BOOL,
}  # fmt: skip


@final
@dataclass(frozen=True)
class Affine:
    """How a float tensor is sent as uint8: ``real = scale * (byte - zero_point)``.

    Attributes:
        scale: Size of one step.
        zero_point: The byte that means 0.
    """

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, lowest: float, highest: float) -> Affine:
        """The finest one that covers [lowest, highest] and represents 0 exactly."""
        low, high = min(lowest, 0.0), max(highest, 0.0)
        scale = (high - low) / 255 or 1.0
        return cls(scale=scale, zero_point=round(-low / scale))


def split(model: onnx.ModelProto, cut: Cut, boundary: Affine | None = None) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Cut ``model`` at ``cut``.

    Weights are copied once into the part that uses them (twice where both do). Operators that depend only on carried
    inputs stand in both parts.

    Args:
        model: The whole model; not changed.
        cut: One of its `cut_points`.
        boundary: None: the tensor crosses as it is. Otherwise it crosses as uint8: the head ends with a
            QuantizeLinear, the tail starts with a DequantizeLinear.

    Returns:
        Head and tail; both pass the ONNX checker. The tail's inputs are the cut tensor, then the carried inputs.

    Raises:
        InputError: ``cut`` is not a cut of this model, or a ``boundary`` is given for a tensor that is not float32.
    """
    name = cut.tensor.name
    if boundary is not None and cut.tensor.dtype != "FP32":
        raise InputError("only a float32 tensor can be sent as uint8", got=cut.tensor.dtype, where=f"cut at {name!r}")
    inputs = {value.name: value for value in graph_inputs(model)}
    head_nodes, head_needs = _upstream(model, {name}, set())
    tail_nodes, tail_needs = _upstream(model, {value.name for value in model.graph.output}, {name})
    carried = [q.name for q in cut.carried]
    if name in head_needs or name not in tail_needs or sorted(tail_needs & set(inputs)) != sorted(carried):
        raise InputError("the cut must be one of the model's own cut points", got=repr(name), where="split")
    batch = _batch_symbol(model)
    sent = _value(cut.tensor, batch)
    head = _part(model, head_nodes, head_needs, "head")
    head.graph.input.extend(value for q, value in inputs.items() if q in head_needs)
    tail = _part(model, tail_nodes, tail_needs, "tail")
    if boundary is not None:
        sent = _insert_boundary(head, tail, cut.tensor, boundary, batch)
    head.graph.output.append(sent)
    tail.graph.input.append(sent)
    tail.graph.input.extend(value for q, value in inputs.items() if q in carried)
    tail.graph.output.extend(model.graph.output)
    for part in (head, tail):
        onnx.checker.check_model(part)
    return head, tail


def _upstream(model: onnx.ModelProto, wanted: set[str], stop: set[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Nodes that make ``wanted`` without what makes ``stop``, and the names those nodes do not make themselves."""
    pending = set(wanted)
    nodes, needs, made = [], set[str](), set[str]()
    for node in reversed(model.graph.node):
        outputs = {name for name in node.output if name}
        if outputs & (pending - stop):
            nodes.append(node)
            made |= outputs
            needs |= {name for name in (*node.input, *subgraph_names(node)) if name}
            pending |= needs
    return nodes[::-1], (needs | wanted) - (made - stop)


def _part(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], needs: set[str], title: str) -> onnx.ModelProto:
    part = onnx.ModelProto(
        ir_version=model.ir_version, producer_name=model.producer_name, producer_version=model.producer_version
    )
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = f"{model.graph.name or 'graph'}_{title}"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needs)
    part.graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in needs)
    return part


def _insert_boundary(
    head: onnx.ModelProto, tail: onnx.ModelProto, tensor: TensorSpec, boundary: Affine, batch: str
) -> onnx.ValueInfoProto:
    sent, scale, zero = (f"{tensor.name}_{what}" for what in ("uint8", "uint8_scale", "uint8_zero_point"))
    head.graph.node.append(
        onnx.helper.make_node("QuantizeLinear", [tensor.name, scale, zero], [sent], f"{tensor.name}_QuantizeBoundary")
    )
    tail.graph.node.insert(
        0,
        onnx.helper.make_node(
            "DequantizeLinear", [sent, scale, zero], [tensor.name], f"{tensor.name}_DequantizeBoundary"
        ),
    )
    for part in (head, tail):
        part.graph.initializer.append(onnx.numpy_helper.from_array(np.array(boundary.scale, np.float32), scale))
        part.graph.initializer.append(onnx.numpy_helper.from_array(np.array(boundary.zero_point, np.uint8), zero))
    return _value(TensorSpec(name=sent, dtype="UINT8", shape=tensor.shape), batch)


def _batch_symbol(model: onnx.ModelProto) -> str:
    for value in graph_inputs(model):
        for dim in value.type.tensor_type.shape.dim[:1]:
            if dim.dim_param:
                return str(dim.dim_param)
    return "batch"


def _value(tensor: TensorSpec, batch: str) -> onnx.ValueInfoProto:
    shape = [batch if axis < 0 else axis for axis in tensor.shape]
    return onnx.helper.make_tensor_value_info(tensor.name, _ELEMENTS[tensor.dtype], shape)


def run(segments: Sequence[onnx.ModelProto], feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
    """Run ``segments`` one after the other on the CPU, one thread; each takes inputs and earlier outputs by name.

    Returns:
        The last segment's outputs.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    known, outputs = dict(feeds), dict[str, npt.NDArray[Any]]()
    for segment in segments:
        session = ort.InferenceSession(segment.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        answers = session.run(names, {value.name: known[value.name] for value in session.get_inputs()})
        outputs = dict(zip(names, answers, strict=True))
        known.update(outputs)
    return outputs


def composition_error(model: onnx.ModelProto, segments: Sequence[onnx.ModelProto], feeds: Feeds) -> float:
    """Largest absolute difference between the outputs of the whole model and of its segments in a row."""
    worst = 0.0
    for given in _batches(model, feeds):
        whole, composed = run([model], given), run(segments, given)
        for name, answer in whole.items():
            worst = max(worst, float(np.abs(answer.astype(np.float64) - composed[name]).max(initial=0.0)))
    return worst


def _batches(model: onnx.ModelProto, feeds: Feeds) -> list[Feeds]:
    """All items at once, or one by one where the model takes no more."""
    axes = [value.type.tensor_type.shape.dim[:1] for value in model.graph.input if value.name in feeds]
    if not any(dim and dim[0].dim_value == 1 for dim in axes):
        return [feeds]
    count = min(len(array) for array in feeds.values())
    return [{name: array[i : i + 1] for name, array in feeds.items()} for i in range(count)]
