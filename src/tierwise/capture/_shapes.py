"""Type and shape of every tensor of an ONNX graph, for one given batch size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from tierwise._errors import InputError

__all__ = ["TensorType", "graph_inputs", "infer", "is_batched", "subgraph_names", "tensor_dtype"]

TensorType = tuple[int, tuple[int, ...]]
"""ONNX element type and shape."""

# Constants up to this many elements may decide shapes (targets of Reshape, starts of Slice); larger ones are weights,
# whose values inference never reads, and stay out of the copy it works on.
_SMALL_ELEMENTS = 4096


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs a caller must give: old files list their constants as inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def is_batched(model: onnx.ModelProto) -> bool:
    """Whether the first axis of the inputs accepts any size.

    Raises:
        InputError: An axis other than the first has no fixed size.
    """
    batched = False
    for value in graph_inputs(model):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if axis > 0:
                raise InputError(
                    "every axis of an input except the first (the batch) must have a fixed size",
                    got=f"axis {axis} = {dim.dim_param or 'unknown'}",
                    where=f"input {value.name!r}",
                    fix="Export the model again with that axis fixed, e.g. text padded to one length",
                )
            batched = True
    return batched


def tensor_dtype(element: int) -> np.dtype[Any]:
    """NumPy type of an ONNX element type."""
    kind: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(element)
    return kind


def infer(model: onnx.ModelProto, batch: int) -> dict[str, TensorType]:
    """Types and shapes of all tensors, constants included, when the batch has ``batch`` items.

    Symbolic inference on a copy without weights; where that leaves a tensor open (operators it does not know, shapes
    computed at run time), the model is run once and its tensors are looked at.

    Raises:
        InputError: An input's axis is open, or the model cannot be run.
    """
    is_batched(model)
    types = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    skeleton = _skeleton(model, batch)
    types.update(_symbolic(skeleton))
    wanted = [name for node in model.graph.node for name in node.output if name]
    if any(name not in types for name in wanted):
        types.update(_observed(model, batch, [name for name in wanted if name not in types]))
    return types


def _skeleton(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model with a fixed batch and without large constants, which become inputs."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    for value in graph_inputs(model):
        fixed = graph.input.add()
        fixed.CopyFrom(value)
        dims = fixed.type.tensor_type.shape.dim
        if dims and dims[0].dim_value <= 0:
            dims[0].dim_value = batch
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= _SMALL_ELEMENTS:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return skeleton


def _symbolic(skeleton: onnx.ModelProto) -> dict[str, TensorType]:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    try:
        inferred = SymbolicShapeInference.infer_shapes(skeleton, auto_merge=True)
    except Exception:  # it raises bare Exception, AssertionError and more for operators it does not know
        inferred = None
    if inferred is None:
        return {value.name: fixed for value in skeleton.graph.input if (fixed := _fixed(value)) is not None}
    graph = inferred.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: fixed for value in values if (fixed := _fixed(value)) is not None}


def _fixed(value: onnx.ValueInfoProto) -> TensorType | None:
    tensor = value.type.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    if any(not dim.HasField("dim_value") for dim in dims):
        return None
    return tensor.elem_type, tuple(dim.dim_value for dim in dims)


def _observed(model: onnx.ModelProto, batch: int, names: list[str]) -> dict[str, TensorType]:
    import onnxruntime as ort

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {value.name for value in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    feeds = {}
    for value in graph_inputs(model):
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.dim_value > 0 else batch for dim in tensor.shape.dim]
        # Ones are a valid token id, a full mask and a harmless picture.
        feeds[value.name] = np.ones(shape, dtype=tensor_dtype(tensor.elem_type))
    try:
        session = ort.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
        arrays = session.run(names, feeds)
    except Exception as error:  # ONNX Runtime raises its own tree, not importable by name
        raise InputError(
            f"the model must run in ONNX Runtime, to find the shapes inside ({str(error).splitlines()[0]})",
            where=f"tensor {names[0]!r}",
        ) from error
    return {
        name: (int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)), tuple(array.shape))
        for name, array in zip(names, arrays, strict=True)
    }


def subgraph_names(node: onnx.NodeProto) -> Iterator[str]:
    """Outer tensors that the bodies of ``node`` (If, Loop, Scan) read without listing them as inputs."""
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            inner = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            inner |= {name for child in body.node for name in child.output}
            for child in body.node:
                yield from (name for name in (*child.input, *subgraph_names(child)) if name and name not in inner)
            # A body may also answer an outer tensor as it is.
            yield from (value.name for value in body.output if value.name not in inner)
