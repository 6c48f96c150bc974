"""What of a quantised model ONNX Runtime really computes in 8-bit integers, and why the rest does not."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from tierwise.artifact import Coverage, NodeAudit
from tierwise.capture import COMPUTE_OPS, Graph, read_graph
from tierwise.measure import isa

__all__ = ["audit_coverage", "optimised"]

_INT8_OPS = frozenset({
    "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QGemm", "QAttention", "DynamicQuantizeLSTM",
})  # fmt: skip
# Operators of ONNX Runtime that swallow matrix products when it fuses; they compute in float.
_FUSED_OPS = frozenset({"Attention", "MultiHeadAttention", "FusedConv", "FusedMatMul", "FusedGemm"})
# The optimiser appends these to names it has to make unique.
_SUFFIX = re.compile(r"(_token_\d+|/duplicated|_nchwc)+$")


def audit_coverage(models: Sequence[onnx.ModelProto]) -> Coverage:
    """Let ONNX Runtime optimise ``models`` as a node would, and count what became of their arithmetic.

    Args:
        models: The segments of a quantised model.

    Returns:
        One entry per compute operator (convolution, matrix product); the shares refer to all models together.
    """
    nodes: list[NodeAudit] = []
    for model in models:
        nodes.extend(_audit(model))
    int8 = [node for node in nodes if node.int8]
    total = sum(node.macs for node in nodes)
    return Coverage(
        int8_ops=len(int8),
        float_ops=len(nodes) - len(int8),
        int8_macs_frac=sum(node.macs for node in int8) / total if total else 0.0,
        nodes=tuple(nodes),
        isa=isa(),
    )


def optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that ONNX Runtime executes on this machine's CPU, after all its optimisations."""
    with tempfile.TemporaryDirectory(prefix="tierwise-audit-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(path)
        options.intra_op_num_threads = 1
        # It warns that such a file fits this machine only; that is the point of it here.
        options.log_severity_level = 3
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def _audit(model: onnx.ModelProto) -> list[NodeAudit]:
    graph = read_graph(model)
    macs = {node.name: node.macs for node in graph.nodes if node.op in COMPUTE_OPS}
    labels = {node.name: node.label for node in graph.nodes}
    result = optimised(model)
    makers = {name: node for node in result.graph.node for name in node.output if name}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in result.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    compute = [node for node in result.graph.node if node.op_type in COMPUTE_OPS | _INT8_OPS | _FUSED_OPS]
    origins = {id(node): _origin(node, macs, graph) for node in compute}
    found = {origin for origin in origins.values() if origin is not None}
    # What a fusion swallowed has lost its name; its arithmetic is shared among the operators without one.
    lost = sum(count for name, count in macs.items() if name not in found)
    nameless = sum(origin is None for origin in origins.values())
    entries = []
    for node in compute:
        origin = origins[id(node)]
        int8 = node.op_type in _INT8_OPS
        entries.append(
            NodeAudit(
                node=labels.get(origin or "", node.name or node.output[0]),
                op=node.op_type,
                int8=int8,
                macs=macs[origin] if origin is not None else lost // nameless,
                reason="" if int8 else _reason(node, makers, readers, model),
            )
        )
    return entries


def _origin(node: onnx.NodeProto, macs: Mapping[str, int], graph: Graph) -> str | None:
    """Name of the operator before optimisation: by its name, else by a tensor it makes or is named after."""
    name = _SUFFIX.sub("", node.name)
    if name in macs:
        return name
    before = {output: maker for maker in graph.nodes for output in maker.outputs}
    for tensor in (name, *(_SUFFIX.sub("", output) for output in node.output)):
        maker = before.get(tensor)
        # An activation fused into the operator gives it its name.
        while maker is not None and maker.name not in macs and len(maker.inputs) == 1:
            maker = before.get(maker.inputs[0])
        if maker is not None and maker.name in macs:
            return maker.name
    return None


def _reason(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    model: onnx.ModelProto,
) -> str:
    """Why ``node`` stayed in float, read from what surrounds it in the optimised graph."""
    if node.op_type in ("Attention", "MultiHeadAttention"):
        return f"fused into {node.op_type}, which computes in float"
    factors = [_behind_layout(makers.get(name), makers) for name in node.input[:2]]
    if factors[0] is None or factors[0].op_type != "DequantizeLinear":
        return f"input not quantised: {_follows(factors[0], node.input[0])}"
    if factors[1] is None or factors[1].op_type != "DequantizeLinear":
        return f"second factor not quantised: {_follows(factors[1], node.input[1])}"
    following = readers.get(node.output[0], [])
    if not any(reader.op_type == "QuantizeLinear" for reader in following) and "Conv" in node.op_type:
        what = f"{following[0].op_type} {_SUFFIX.sub('', following[0].name)}" if following else "the answer"
        return f"output not quantised: goes on in float to {what}"
    if _activation_type(model) == onnx.TensorProto.INT8 and isa().startswith("x86"):
        return "activation type S8 is not fused on x86: quantise with unsigned activations (U8S8)"
    return f"quantised on all sides, but ONNX Runtime has no fusion for this {node.op_type}"


def _behind_layout(maker: onnx.NodeProto | None, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """What comes before the reordering of memory that the optimiser puts between operators."""
    while maker is not None and maker.op_type in ("ReorderInput", "ReorderOutput", "Transpose"):
        maker = makers.get(maker.input[0])
    return maker


def _follows(maker: onnx.NodeProto | None, name: str) -> str:
    return (
        f"is the constant or input {name}"
        if maker is None
        else f"follows {maker.op_type} {_SUFFIX.sub('', maker.name)}"
    )


def _activation_type(model: onnx.ModelProto) -> int:
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    return next((int(tensor.data_type) for tensor in model.graph.initializer if tensor.name in zeros), 0)
