from __future__ import annotations

from typing import ClassVar

import pytest

from tierwise._config import Spec
from tierwise._errors import ChainError, InputError, SpecError
from tierwise.capture import load_onnx
from tierwise.measure import Silent
from tierwise.operators import Identity, Partition, Stage, StaticPTQ, Work, chain_text, check_chain, parse_chain


class Drill(Spec, frozen=True, kw_only=True, tag="drill", tag_field="op"):
    """A training operator, as they will be."""

    NAME: ClassVar[str] = "drill"
    STAGE: ClassVar[Stage] = Stage.TRAIN
    NEEDS_TORCH: ClassVar[bool] = True


@pytest.mark.parametrize("text", ["identity", "sptq", "partition", "sptq+partition", " sptq + partition "])
def test_legal_chains(text):
    assert chain_text(parse_chain(text)) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "rule", "nearest"),
    [
        ("partition+sptq", "end with partition", "sptq+partition"),
        ("identity+sptq", "not combine identity", "sptq"),
        ("partition+identity", "not combine identity", "partition"),
        ("sptq+sptq", "not repeat an operator", "sptq"),
        ("sptq+partition+sptq", "not repeat an operator", "sptq+partition"),
        ("identity+identity", "not repeat an operator", "identity"),
    ],
)
def test_illegal_chains_name_the_nearest_legal_one(text, rule, nearest):
    with pytest.raises(
        ChainError, match=rf"a chain must {rule}.*The nearest legal chain is '{nearest}'".replace("+", r"\+")
    ):
        parse_chain(text)


def test_training_comes_before_quantising():
    check_chain((Drill(), StaticPTQ(), Partition()))
    with pytest.raises(ChainError, match=r"train first.*got 'sptq\+drill'.*'drill\+sptq'"):
        check_chain((StaticPTQ(), Drill()))
    with pytest.raises(ChainError, match=r"got ''.*'identity'"):
        check_chain(())


def test_training_needs_the_torch_model(onnx_task, torch_task):
    check_chain((Drill(),), torch_task)
    check_chain((StaticPTQ(), Partition()), onnx_task)
    with pytest.raises(
        InputError,
        match=r"task 'brought': the operator 'drill' needs the torch model, but got a task that came as an ONNX",
    ):
        check_chain((Drill(),), onnx_task)


def test_options_reach_their_operator():
    chain = parse_chain("sptq+partition", {"sptq": {"items": 7}, "partition": {"cut": "blocks.1"}, "other": {"x": 1}})
    assert chain == (StaticPTQ(items=7), Partition(cut="blocks.1"))


def test_wrong_names_and_options_are_refused():
    with pytest.raises(
        ChainError,
        match=r"identity, prune, distill, bottleneck, early-exit, filter, sptq, qat, partition, joined by \+, "
        r"but got 'spq'",
    ):
        parse_chain("spq")
    with pytest.raises(SpecError, match=r"chain 'sptq', operator sptq: .*unknown field `item`"):
        parse_chain("sptq", {"sptq": {"item": 7}})
    with pytest.raises(SpecError, match=r"`int` >= 1 - at `\$\.items`"):
        parse_chain("sptq", {"sptq": {"items": 0}})


def test_identity_has_no_options():
    assert parse_chain("identity") == (Identity(),)


def test_work_without_source_says_so(onnx_task):
    work = Work(task=onnx_task, model=load_onnx(onnx_task.onnx), module=None)
    with pytest.raises(
        InputError, match=r"'brought': the operator 'drill' needs the torch model.*Bring the task by module"
    ):
        work.torch_module("drill", Silent())
