from __future__ import annotations

import dataclasses

import onnx
import pytest

from tierwise.operators import QAT, Identity, Partition, StaticPTQ, apply
from tierwise.testing import check_operator


@pytest.mark.parametrize(
    "spec",
    [
        Identity(),
        StaticPTQ(items=8),
        QAT(items=8, epochs=1),
        Partition(),
        Partition(boundary="uint8"),
        Partition(cut="blocks.0"),
    ],
    ids=["identity", "sptq", "qat", "auto", "uint8", "named"],
)
def test_built_in_operators_keep_their_contract(torch_task, middle, spec):
    check_operator(spec, torch_task, choose_cuts=middle)


def test_the_contract_holds_without_source_too(onnx_task, middle):
    check_operator(StaticPTQ(items=8), onnx_task, choose_cuts=middle)


def _spoils_its_input(spec, work, context):
    work.model.graph.node[0].name = "spoilt"
    return apply(spec, work, context)


def _forgets_its_spec(spec, work, context):
    return dataclasses.replace(apply(spec, work, context), history=())


def _answers_something_else(spec, work, context):
    model = onnx.ModelProto()
    model.CopyFrom(work.model)
    for tensor in model.graph.initializer:
        if tensor.name == "fc.bias":
            tensor.raw_data = b"\0\0\0\x7e" * 10
    return dataclasses.replace(apply(spec, work, context), model=model)


@pytest.mark.parametrize(
    ("operate", "promise"),
    [
        (_spoils_its_input, "leave the model it is given unchanged"),
        (_forgets_its_spec, "append its spec to the history"),
        (_answers_something_else, "answer 'logits' within"),
    ],
)
def test_a_broken_operator_is_found(onnx_task, operate, promise):
    with pytest.raises(AssertionError, match=f"an operator must {promise}"):
        check_operator(Identity(), onnx_task, operate=operate)
