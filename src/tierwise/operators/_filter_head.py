"""The classifier of a filter as ONNX, with the answer for what it drops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tierwise._errors import InputError
from tierwise.artifact import TensorSpec, detections_spec
from tierwise.capture import read_graph
from tierwise.operators._exit import exit_names
from tierwise.operators._exit_head import Array, Parts

if TYPE_CHECKING:
    from tierwise.operators._work import Work

__all__ = ["filter_model", "nothing_answer"]


def nothing_answer(work: Work, background: str) -> npt.NDArray[np.float32]:
    """One item's answer that says "nothing": no boxes, or ``background`` as the only class with a score.

    Raises:
        InputError: The model's output is not one row of class scores an item.
    """
    if work.task.boxes is not None:
        empty = np.zeros(detections_spec(work.task.boxes).shape[1:], np.float32)
        empty[:, 5] = -1
        return empty
    graph = read_graph(work.model)
    spec = graph.tensors[graph.outputs[0]].spec
    if spec.dtype != "FP32" or spec.shape != (-1, len(work.task.labels)):
        raise InputError(
            f"a filter needs an output FP32 [-1, {len(work.task.labels)}]",
            got=f"{spec.dtype} {list(spec.shape)}",
            where=f"task {work.task.name!r}",
        )
    sole = np.zeros(spec.shape[1], np.float32)
    sole[work.task.labels.index(background)] = 1
    return sole


def filter_model(
    model: onnx.ModelProto,
    tensor: TensorSpec,
    features: Parts,
    layers: Sequence[tuple[Array, Array]],
    nothing: npt.NDArray[np.float32],
) -> onnx.ModelProto:
    """From ``tensor`` to the confidence that an item holds nothing, and the answer for it.

    Args:
        model: The model that makes ``tensor``.
        tensor: What the filter reads.
        features: From there to what the classifier reads, as `tierwise.operators._exit_head.features_graph` gives it.
        layers: Weights and biases of two layers; the last scores "nothing" and "something".
        nothing: The answer for one item.
    """
    confidence, answer = exit_names(0)
    nodes, constants, name = [*features[0]], [*features[1]], features[2]
    (weight, bias), (last, offset) = layers
    # The share of "nothing" among two is the sigmoid of the difference of their scores.
    arrays = {
        "exit0_weight0": weight,
        "exit0_bias0": bias,
        "exit0_weight1": last[:, :1] - last[:, 1:],
        "exit0_bias1": offset[:1] - offset[1:],
        "exit0_zeros": np.zeros((1, nothing.size), np.float32),
        "exit0_nothing": nothing.reshape(1, -1),
        "exit0_shape": np.array([-1, *nothing.shape], np.int64),
    }
    constants += [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in arrays.items()]
    nodes += [
        helper.make_node("Gemm", [name, "exit0_weight0", "exit0_bias0"], ["exit0_layer0"], "exit0_gemm0"),
        helper.make_node("Relu", ["exit0_layer0"], ["exit0_active0"], "exit0_relu0"),
        helper.make_node("Gemm", ["exit0_active0", "exit0_weight1", "exit0_bias1"], ["exit0_score"], "exit0_gemm1"),
        helper.make_node("Sigmoid", ["exit0_score"], [confidence], "exit0_sigmoid"),
        # A constant answer with as many rows as there are items.
        helper.make_node("Mul", [confidence, "exit0_zeros"], ["exit0_rows"], "exit0_mul"),
        helper.make_node("Add", ["exit0_rows", "exit0_nothing"], ["exit0_filled"], "exit0_add"),
        helper.make_node("Reshape", ["exit0_filled", "exit0_shape"], [answer], "exit0_reshape"),
    ]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    values = [
        helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, [batch if size < 0 else size for size in shape])
        for key, shape in ((tensor.name, tensor.shape), (confidence, (-1, 1)), (answer, (-1, *nothing.shape)))
    ]
    graph = helper.make_graph(nodes, "exit0", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
