from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from tierwise._errors import ChainError, InputError
from tierwise.capture import run
from tierwise.operators import EarlyExit, build, chain_text, parse_chain
from tierwise.tasks import Split, score
from tierwise.testing import check_operator


def leaves(artifact, task, split):
    """The share of items that leave at the first exit, and the score of all items together."""
    exit = artifact.manifest.segments[0].exit
    head = onnx.load(artifact.path("segment0.onnx"))
    feeds, labels = task.tensors(task.splits[split].items), task.splits[split].labels
    given = run([head], feeds)
    final = run([onnx.load(artifact.path(segment.file)) for segment in artifact.manifest.segments], feeds)["logits"]
    gone = given[exit.confidence].reshape(-1) >= exit.threshold
    mixed = np.where(gone[:, None], given[exit.answers["logits"]], final)
    return gone.mean(), score("accuracy", mixed, labels), score("accuracy", final, labels)


@pytest.mark.parametrize(
    "chain", ["early-exit", "early-exit+sptq", "early-exit+sptq+partition", "early-exit+partition"]
)
def test_items_leave_within_the_budget(digits, cache, chain):
    options = {"early-exit": {"max_drop_frac": 0.01}, "partition": {"boundary": "uint8"}}
    artifact = build(digits, parse_chain(chain, options), cache)
    rate, mixed, final = leaves(artifact, digits, "validation")
    assert rate > 0.3
    if chain != "early-exit+partition":  # there the crossing tensor is rounded after the thresholds were chosen
        assert mixed >= final - 0.01 - 1e-9
    _, mixed, final = leaves(artifact, digits, "test")
    assert mixed >= final - 0.04
    head, tail = artifact.manifest.segments
    assert (head.exit is not None, tail.exit) == (True, None)
    if chain != "early-exit+partition":
        assert artifact.manifest.provenance.composition_error == 0.0
    if "sptq" in chain:
        assert artifact.manifest.coverage.int8_macs_frac > 0.97
        assert tail.inputs[0].dtype == "UINT8"


def test_several_exits_share_the_budget(digits, cache):
    spec = EarlyExit(cuts=("blocks.1", "blocks.0"), max_drop_frac=0.0)
    artifact = build(digits, (spec,), cache)
    assert [segment.exit is not None for segment in artifact.manifest.segments] == [True, True, False]
    assert [segment.inputs[0].name for segment in artifact.manifest.segments][1:] == list(
        artifact.manifest.provenance.specs[0]["cuts"]
    )
    with pytest.raises(InputError, match="a model in 2 parts must have as many exits as cuts, 1, but got 2 exits"):
        build(digits, (spec, *parse_chain("partition")), cache)


def test_an_exit_that_knows_nothing_lets_nobody_leave(torch_task, cache):
    # Random labels: where the budget is zero, no answer of the exit may cost one item.
    artifact = build(torch_task, (EarlyExit(max_drop_frac=0.0, epochs=1),), cache)
    _, mixed, final = leaves(artifact, torch_task, "validation")
    assert mixed >= final


def test_an_encoder_gets_exits_too(text_task, cache):
    artifact = build(text_task, (EarlyExit(epochs=2),), cache)
    assert len(artifact.manifest.segments) == 2


def test_the_contract_holds(torch_task, onnx_task):
    check_operator(EarlyExit(epochs=2), torch_task)
    check_operator(EarlyExit(epochs=2), onnx_task)


def test_exits_come_after_training_and_before_quantising():
    for text in ("early-exit+sptq", "early-exit+qat+partition", "prune+early-exit"):
        assert chain_text(parse_chain(text)) == text
    with pytest.raises(ChainError, match=r"add exits next.*nearest legal chain is 'early-exit\+sptq'"):
        parse_chain("sptq+early-exit")
    with pytest.raises(ChainError, match=r"nearest legal chain is 'prune\+early-exit'"):
        parse_chain("early-exit+prune")


def test_a_model_with_an_exit_is_cut_there(torch_task, cache):
    chain = parse_chain(
        "early-exit+partition", {"early-exit": {"cuts": ["blocks.0"]}, "partition": {"cut": "blocks.1"}}
    )
    with pytest.raises(InputError, match=r"a model with exits must be cut at the exits, but got blocks.1"):
        build(torch_task, chain, cache)


def test_missing_items_are_an_error(torch_task, cache):
    task = dataclasses.replace(
        torch_task,
        splits={**torch_task.splits, "validation": Split([], np.zeros(0, np.int64))},
        fingerprint="5" * 64,
    )
    with pytest.raises(InputError, match="exits need validation items, but got none"):
        build(task, (EarlyExit(),), cache)
