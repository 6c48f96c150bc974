from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tierwise._errors import InputError
from tierwise.operators import StaticPTQ, build
from tierwise.operators._calibration import calibrated
from tierwise.tasks import score


def tensors(values, method, percentile=99.0):
    """Ranges of a tensor and of what a rectifier makes of it."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    counted = []
    batches = [{"x": part.reshape(-1, 1).astype(np.float32)} for part in np.array_split(values, 3)]
    ranges = calibrated(model, batches, method, percentile, counted.append)
    assert sum(counted) == len(values)
    return ranges


def test_min_max_holds_every_value():
    values = np.random.default_rng(0).normal(size=999)
    ranges = tensors(values, "min-max")
    assert ranges["x"] == pytest.approx((values.min(), values.max()))
    assert ranges["y"] == pytest.approx((0.0, values.max()))


def test_percentiles_are_those_of_numpy_up_to_a_bin():
    values = np.random.default_rng(0).normal(size=5000)
    low, high = tensors(values, "percentile")["x"]
    width = (values.max() - values.min()) / 2048
    assert low == pytest.approx(np.percentile(values, 0.5), abs=2 * width)
    assert high == pytest.approx(np.percentile(values, 99.5), abs=2 * width)
    assert tensors(values, "percentile", 100.0)["x"] == pytest.approx((values.min(), values.max()))
    assert tensors(values, "percentile")["y"][0] == 0.0


def test_entropy_cuts_off_a_lonely_outlier_and_nothing_else():
    values = np.random.default_rng(0).normal(size=20000)
    low, high = tensors(np.append(values, 1000.0), "entropy")["x"]
    assert high < 300
    assert low == pytest.approx(values.min())
    low, high = tensors(np.random.default_rng(0).uniform(-1, 1, 20000), "entropy")["x"]
    assert (low, high) == pytest.approx((-1, 1), abs=0.02)


@pytest.mark.parametrize("method", ["min-max", "percentile", "entropy"])
def test_a_tensor_with_one_value_has_that_range(method):
    ranges = tensors(np.zeros(9), method)
    assert ranges["x"] == ranges["y"] == (0.0, 0.0)


def accuracy(artifact, task):
    from tierwise.operators._session import answers

    logits = answers(onnx.load(artifact.path("model.onnx")), task, "validation")["logits"]
    return score("accuracy", logits, task.splits["validation"].labels)


def test_sensitive_layers_go_back_to_float_until_the_budget_holds(hard_digits, tmp_path):
    specs = {budget: StaticPTQ(max_drop_frac=budget) for budget in (None, 0.02, 0.99, 0.0)}
    artifacts = {budget: build(hard_digits, (spec,), tmp_path) for budget, spec in specs.items()}
    scores = {budget: accuracy(artifact, hard_digits) for budget, artifact in artifacts.items()}
    exact = max(scores.values())
    assert scores[None] < exact - 0.02 <= scores[0.02]
    coverages = {budget: artifact.manifest.coverage for budget, artifact in artifacts.items()}
    assert coverages[None].float_ops == coverages[0.99].float_ops == 0
    assert 0 < coverages[0.02].float_ops < 10
    notes = artifacts[0.02].manifest.provenance.notes
    assert "more than 2.00 points" in notes[1]
    returned = [note for note in notes if "back to float" in note]
    assert len(returned) == coverages[0.02].float_ops
    order = [float(note.partition("(")[2].partition(" dB")[0]) for note in returned]
    assert order == sorted(order)
    assert "within 99.00 points, all layers int8" in artifacts[0.99].manifest.provenance.notes[1]


def test_a_budget_needs_validation_items(onnx_task, tmp_path):
    import dataclasses

    from tierwise.tasks import Split

    empty = Split([], np.zeros(0, np.int64))
    task = dataclasses.replace(onnx_task, splits={**onnx_task.splits, "validation": empty})
    with pytest.raises(InputError, match="a budget for the drop needs validation items, but got none"):
        build(task, (StaticPTQ(max_drop_frac=0.01),), tmp_path)
