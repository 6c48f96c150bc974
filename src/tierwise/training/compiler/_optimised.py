"""An exported graph, optimised ahead of time by ONNX Runtime itself and put into the order that needs least memory."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import onnx

from tierwise._errors import InputError
from tierwise.training.compiler._bits import pack_masks
from tierwise.training.compiler._order import order_for_memory
from tierwise.training.compiler._timeline import Timeline, timeline_of

__all__ = ["Planned", "plan_graph"]

_LOSS = "loss"


@final
@dataclass(frozen=True)
class Planned:
    """A graph in the order in which it needs least memory.

    Attributes:
        content: The ONNX file.
        timeline: Which of its tensors lives when.
        exported_peak_bytes: What it would have needed in the order in which it was exported.
    """

    content: bytes
    timeline: Timeline
    exported_peak_bytes: int


def plan_graph(content: bytes, *, bit_masks: bool = False) -> Planned:
    """What ONNX Runtime makes of a graph for any CPU (constants folded, activations fused), ordered for memory.

    Layouts of a kind of processor are left to the session on the node. Where the graph has a loss that is no finite
    number, the run ends there with an error, before any state is written.

    Args:
        content: A graph of fixed shapes.
        bit_masks: Keep masks as bits, see `pack_masks`.

    Raises:
        InputError: ONNX Runtime cannot load the graph.
    """
    model = onnx.load_from_string(content)
    _fold_constants(model.graph)
    _stop_at_bad_loss(model.graph)
    optimised = _optimise(model)
    before = timeline_of(optimised).peak_bytes
    if bit_masks:
        order_for_memory(optimised)  # a packed mask is right behind its maker, which only a given order shows
        pack_masks(optimised)
    line = order_for_memory(optimised)
    return Planned(optimised.SerializeToString(), line, before)


def _optimise(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory(prefix="tierwise-plan-") as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise InputError(
                f"ONNX Runtime must be able to load the graph ({str(error).splitlines()[0][:300]})",
                where="the compiled graph",
            ) from error
        return onnx.load(str(path))


def _fold_constants(graph: onnx.GraphProto) -> None:
    """Constants, and what is cast of them, become initialisers: ONNX Runtime fuses no clipping with bounds it must run.

    The exporter writes bounds as a constant that is cast to the type of what is clipped.
    """
    values: dict[str, onnx.TensorProto] = {}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            values[node.output[0]] = _constant(node)
            continue
        if node.op_type == "CastLike" and node.input[0] in values and types.get(node.input[1]):
            wanted = onnx.helper.tensor_dtype_to_np_dtype(types[node.input[1]])
            array = onnx.numpy_helper.to_array(values[node.input[0]]).astype(wanted)
            values[node.output[0]] = onnx.numpy_helper.from_array(array, node.output[0])
            continue
        kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(values.values())


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    held = node.attribute[0]
    if held.name == "value":
        array = onnx.numpy_helper.to_array(held.t)
    else:
        kind = np.float32 if "float" in held.name else np.int64
        array = np.array(onnx.helper.get_attribute_value(held), kind)
    return onnx.numpy_helper.from_array(array, node.output[0])


def _stop_at_bad_loss(graph: onnx.GraphProto) -> None:
    """Read the loss at place 0 where it is finite and at place 1 of 1, an error, where it is not."""
    if all(value.name != _LOSS for value in graph.output):
        return
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == _LOSS:
                    names[i] = "loss.found"
    make, whole = onnx.helper.make_node, onnx.TensorProto.INT64
    shape = onnx.numpy_helper.from_array(np.array([1], np.int64), "loss.one")
    graph.initializer.append(shape)
    graph.node.extend(
        [
            make(
                "Sub", ["loss.found", "loss.found"], ["loss.zero"], "loss_zero"
            ),  # not a number where it is not finite
            make("IsNaN", ["loss.zero"], ["loss.bad"], "loss_bad"),
            make("Cast", ["loss.bad"], ["loss.place"], "loss_place", to=whole),
            make("Reshape", ["loss.found", "loss.one"], ["loss.row"], "loss_row"),
            make("Gather", ["loss.row", "loss.place"], [_LOSS], "loss_checked"),
        ]
    )
