from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tierwise._errors import ChainError, InputError
from tierwise.capture import export, run
from tierwise.measure import isa
from tierwise.operators import QAT, StaticPTQ, build, chain_text, parse_chain
from tierwise.operators._integer_module import IntegerModule
from tierwise.operators._onnx_ops import torch_function
from tierwise.operators._qat import _SOFT_FRAC, _taught
from tierwise.operators._quantise import Scheme, calibration_ranges, has_attention, prepared, quantised
from tierwise.tasks import DenseNet, Split, build_subject, score

ON_X86 = pytest.mark.skipif(not isa().startswith("x86"), reason="what fuses depends on the instruction set: x86 here")


def accuracy(artifact, task):
    logits = run(
        [onnx.load(artifact.path(s.file)) for s in artifact.manifest.segments],
        task.tensors(task.splits["test"].items),
    )["logits"]
    return score("accuracy", logits, task.splits["test"].labels)


@ON_X86
def test_training_regains_what_hard_ranges_cost_and_keeps_every_fusion(hard_digits, tmp_path):
    plain, sptq, qat = (build(hard_digits, parse_chain(chain), tmp_path) for chain in ("identity", "sptq", "qat"))
    exact, static, trained = (accuracy(artifact, hard_digits) for artifact in (plain, sptq, qat))
    assert static < exact - 0.03
    assert trained > exact - 0.02
    for artifact in (sptq, qat):
        coverage = artifact.manifest.coverage
        assert (coverage.float_ops, coverage.int8_macs_frac) == (0, 1.0)
    assert "after" in qat.manifest.provenance.notes[0]
    assert qat.manifest.provenance.training_s > sptq.manifest.provenance.training_s


def integer_module(task, model, folder, target="x86-vnni"):
    scheme = Scheme(isa=target, products_only=has_attention(model))
    floating = prepared(model, folder)
    ranges = calibration_ranges(floating, task, 24, "min-max", 100.0, lambda n: None)
    graph = quantised(floating, ranges, scheme)
    return IntegerModule(graph, floating, ranges, 64 if target == "x86" else 127), graph, floating


@pytest.mark.parametrize("target", ["x86-vnni", "x86", "arm64"])
def test_what_is_trained_rounds_where_the_integer_model_does(torch_task, tmp_path, target):
    model = export(torch_task.model(None), torch_task.example(), ["logits"])
    module, graph, _ = integer_module(torch_task, model, tmp_path, target)
    feeds = torch_task.tensors(torch_task.splits["test"].items)
    expected = run([graph], feeds)["logits"]
    with torch.no_grad():
        got = module(torch.from_numpy(feeds["x"])).numpy()
    floats = run([model], feeds)["logits"]
    # A value between two levels may fall on either side; apart from that, both are the same.
    assert np.abs(got - expected).mean() < 0.1 * np.abs(floats - expected).mean()


def test_norms_that_cannot_be_folded_stay_in_float(torch_task, tmp_path):
    torch.manual_seed(0)
    example = torch_task.example()
    channels = next(iter(example.values())).shape[1]
    net = build_subject(DenseNet(depth=10, growth=4), classes=10, channels=channels).eval()
    model = export(net, example, ["logits"])
    assert "BatchNormalization" in {node.op_type for node in model.graph.node}
    module, graph, _ = integer_module(torch_task, model, tmp_path)
    norms = {node.input[1] for node in graph.graph.node if node.op_type == "BatchNormalization"}
    assert norms <= {tensor.name for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    feeds = torch_task.tensors(torch_task.splits["test"].items)
    options = ort.SessionOptions()
    # Fused kernels of pooling round once less; in a network as small as this one that is most of the error.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (expected,) = ort.InferenceSession(graph.SerializeToString(), options).run(None, feeds)
    floats = run([model], feeds)["logits"]
    with torch.no_grad():
        got = module(*map(torch.from_numpy, feeds.values())).numpy()
    assert np.abs(got - expected).mean() < 0.2 * np.abs(floats - expected).mean()


def test_an_encoder_is_trained_too(text_task, tmp_path):
    model = export(text_task.model(None), text_task.example(), ["logits"])
    module, graph, _ = integer_module(text_task, model, tmp_path)
    feeds = text_task.tensors(text_task.splits["test"].items)
    with torch.no_grad():
        got = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
    expected, floats = run([graph], feeds)["logits"], run([model], feeds)["logits"]
    assert np.abs(got - expected).mean() < 0.3 * np.abs(floats - expected).mean()
    artifact = build(text_task, (QAT(epochs=1),), tmp_path)
    assert artifact.manifest.coverage.int8_macs_frac == 1.0


def test_the_float_graph_that_teaches_computes_what_onnx_runtime_does(text_task, torch_task, tmp_path):
    for number, task in enumerate((text_task, torch_task)):
        model = export(task.model(None), task.example(), ["logits"])
        (folder := tmp_path / str(number)).mkdir()
        floating = prepared(model, folder)
        feeds = task.tensors(task.splits["test"].items)
        batch = {name: torch.from_numpy(array) for name, array in feeds.items()}
        with torch.no_grad():
            got = IntegerModule(floating, floating, {}, 127)(*batch.values()).numpy()
        np.testing.assert_allclose(got, run([model], feeds)["logits"], atol=1e-4)
        # It teaches exactly what it answers: a student with its answers has nothing to learn.
        teaching = _taught(floating)
        loss = teaching(IntegerModule(floating, floating, {}, 127), batch, torch.from_numpy(got.argmax(1)))
        hard = torch.nn.functional.cross_entropy(torch.from_numpy(got), torch.from_numpy(got.argmax(1)))
        torch.testing.assert_close(loss, (1 - _SOFT_FRAC) * hard, atol=1e-5, rtol=1e-4)


def test_labels_alone_can_be_learnt_from_too(torch_task, tmp_path):
    taught, alone = (
        build(torch_task, (QAT(epochs=1, learning_rate=0.05, teach=teach),), tmp_path) for teach in (True, False)
    )
    specs = [artifact.manifest.provenance.specs[0]["teach"] for artifact in (taught, alone)]
    assert specs == [True, False]
    assert taught.directory != alone.directory


class Totals:
    """How long each step said it would be."""

    def __init__(self):
        self.known = {}

    def step(self, title, total):
        self.known[title] = total
        return contextlib.nullcontext(lambda count: None)

    def say(self, line):
        pass


def test_a_part_of_the_train_split_can_be_enough(torch_task, tmp_path):
    for train_items, steps in ((None, 6), (8, 2), (100, 6)):
        totals = Totals()
        build(torch_task, (QAT(epochs=1, batch=4, train_items=train_items),), tmp_path, totals)
        assert totals.known["qat toy"] == steps


def test_training_reaches_ranges_and_weights(torch_task, tmp_path):
    model = export(torch_task.model(None), torch_task.example(), ["logits"])
    module, _, floating = integer_module(torch_task, model, tmp_path)
    feeds = torch_task.tensors(torch_task.splits["train"].items)
    module(torch.from_numpy(feeds["x"])).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())
    before = module.learned_ranges()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1).add_(0.01)
    moved = module.trained_model(floating)
    changed = [a.name for a, b in zip(moved.graph.initializer, floating.graph.initializer, strict=True) if a != b]
    assert len(changed) == 10
    assert all(module.learned_ranges()[name] != limits for name, limits in before.items())


def test_a_task_without_source_can_be_trained(onnx_task, tmp_path):
    artifact = build(onnx_task, (QAT(epochs=1, items=8),), tmp_path)
    assert artifact.manifest.provenance.chain == "qat"


def test_legal_chains_with_training():
    assert chain_text(parse_chain("qat+partition")) == "qat+partition"
    with pytest.raises(ChainError, match=r"one quantising operator.*nearest legal chain is 'sptq'"):
        parse_chain("sptq+qat")
    with pytest.raises(ChainError, match=r"nearest legal chain is 'qat\+partition'"):
        parse_chain("partition+qat")


def test_a_partition_of_a_trained_model_keeps_its_answers(torch_task, tmp_path):
    chain = parse_chain("qat+partition", {"qat": {"epochs": 1}, "partition": {"cut": "blocks.1"}})
    artifact = build(torch_task, chain, tmp_path)
    assert artifact.manifest.provenance.composition_error == 0.0
    assert [segment.inputs[0].dtype for segment in artifact.manifest.segments] == ["FP32", "FP32"]


def test_unknown_operators_are_named():
    node = onnx.helper.make_node("GridSample", ["x", "grid"], ["y"], "warp")
    with pytest.raises(InputError, match=r"know every operator of the model, but got GridSample 'warp'.*sptq"):
        torch_function(node)


def test_missing_items_are_an_error(torch_task, tmp_path):
    empty = Split([], np.zeros(0, np.int64))
    task = dataclasses.replace(torch_task, splits={**torch_task.splits, "train": empty})
    with pytest.raises(InputError, match="quantisation-aware training needs train items, but got none"):
        build(task, (QAT(),), tmp_path)


def test_options_name_different_results(torch_task, tmp_path):
    chains = [(StaticPTQ(items=8, calibration=m),) for m in ("min-max", "percentile", "entropy")]
    chains += [(QAT(epochs=1),), (QAT(epochs=1, seed=1),)]
    assert len({build(torch_task, chain, tmp_path).directory for chain in chains}) == 5
