from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from tierwise._errors import InputError
from tierwise.capture import export, read_graph, run
from tierwise.measure import isa
from tierwise.operators import StaticPTQ, audit_coverage, build, parse_chain
from tierwise.tasks import Split

ON_X86 = pytest.mark.skipif(not isa().startswith("x86"), reason="what fuses depends on the instruction set: x86 here")


def model_of(artifact):
    return onnx.load(artifact.path("model.onnx"))


def zero_point_types(model):
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}


@ON_X86
def test_every_convolution_and_product_runs_in_int8(torch_task, cache):
    artifact = build(torch_task, parse_chain("sptq"), cache)
    coverage = artifact.manifest.coverage
    assert [node.op for node in coverage.nodes].count("QLinearConv") == 7
    assert (coverage.int8_ops, coverage.float_ops, coverage.int8_macs_frac) == (8, 0, 1.0)
    assert sum(node.macs for node in coverage.nodes) == artifact.manifest.segments[0].macs
    assert coverage.nodes[0].node == "stem/Conv"
    assert coverage.isa == isa()


def test_answers_stay_near_and_are_not_rounded_to_bytes(torch_task, cache):
    tensors = torch_task.tensors(torch_task.splits["test"].items)
    plain, quantised = (
        run([model_of(build(torch_task, parse_chain(chain), cache))], tensors)["logits"]
        for chain in ("identity", "sptq")
    )
    np.testing.assert_allclose(quantised, plain, atol=0.1)
    assert np.abs(quantised - plain).max() > 0
    last = model_of(build(torch_task, parse_chain("sptq"), cache)).graph
    assert {node.op_type for node in last.node if "logits" in node.output} == {"Gemm"}


@pytest.mark.parametrize(
    ("target", "activation"), [("x86-vnni", "UINT8"), ("x86", "UINT8"), ("arm64", "INT8"), ("auto", None)]
)
def test_types_follow_the_instruction_set(torch_task, cache, target, activation):
    artifact = build(torch_task, (StaticPTQ(isa=target, items=8),), cache)
    expected = activation or ("INT8" if isa() == "arm64" else "UINT8")
    assert zero_point_types(model_of(artifact)) == {onnx.TensorProto.DataType.Value(expected)}
    assert artifact.manifest.provenance.specs[0]["isa"] == (isa() if target == "auto" else target)
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in model_of(artifact).graph.initializer
        if tensor.name.endswith("_quantized") and "weight" in tensor.name
    ]
    # 7-bit weights where two products of full range would overflow 16 bits.
    assert max(np.abs(weight.astype(int)).max() for weight in weights) <= (64 if target == "x86" else 127)


@ON_X86
def test_float_operators_have_a_reason(torch_task, cache):
    coverage = build(torch_task, (StaticPTQ(isa="arm64"),), cache).manifest.coverage
    left = [node for node in coverage.nodes if not node.int8]
    assert left
    assert {node.reason for node in left} == {
        "activation type S8 is not fused on x86: quantise with unsigned activations (U8S8)"
    }
    assert coverage.int8_macs_frac == pytest.approx(
        sum(node.macs for node in coverage.nodes if node.int8) / sum(node.macs for node in coverage.nodes)
    )


def test_reasons_come_from_the_graph(torch_task, cache):
    plain = model_of(build(torch_task, parse_chain("identity"), cache))
    coverage = audit_coverage([plain])
    assert coverage.int8_ops == 0
    reasons = {node.node: node.reason for node in coverage.nodes}
    assert reasons["stem/Conv"] == "input not quantised: is the constant or input x"
    assert reasons["fc/Gemm"] == "input not quantised: follows ReduceMean node_mean"
    assert sum(node.macs for node in coverage.nodes) == read_graph(plain).macs


def test_only_products_are_quantised_where_masks_are(text_task, tmp_path):
    tensors = text_task.tensors(text_task.splits["test"].items)
    chain = parse_chain("sptq+partition", {"partition": {"cut": "net.bert.encoder.layer.0", "boundary": "uint8"}})
    plain = build(text_task, parse_chain("identity"), tmp_path)
    artifact = build(text_task, chain, tmp_path)
    quantised = run([onnx.load(artifact.path(s.file)) for s in artifact.manifest.segments], tensors)["logits"]
    reference = run([model_of(plain)], tensors)["logits"]
    assert np.abs(quantised - reference).max() < 0.2 * np.abs(reference).max()
    head, tail = artifact.manifest.segments
    assert [(spec.name.split("_Q")[0], spec.dtype) for spec in tail.inputs][1] == ("attention_mask", "INT64")
    assert tail.inputs[0].dtype == "UINT8"
    assert head.macs + tail.macs == plain.manifest.segments[0].macs
    assert "matrix products only" in artifact.manifest.provenance.notes[0]
    assert artifact.manifest.coverage.int8_macs_frac == 1.0


def test_no_calibration_items_is_an_error(torch_task, tmp_path):
    empty = Split([], np.zeros(0, np.int64))
    task = dataclasses.replace(torch_task, splits={**torch_task.splits, "calibration": empty})
    task = dataclasses.replace(task, model=None, onnx=tmp_path / "model.onnx")
    onnx.save(export(torch_task.model(None), torch_task.example(), ["logits"]), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="static quantisation needs calibration items, but got none"):
        build(task, parse_chain("sptq"), tmp_path)
