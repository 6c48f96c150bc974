from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper

from tierwise._errors import ChainError, InputError, SpecError
from tierwise.artifact import TensorSpec, open_artifact
from tierwise.capture import run
from tierwise.measure import Silent
from tierwise.operators import Filter, build, chain_text, parse_chain
from tierwise.operators._exit_head import features_graph, trained_layers
from tierwise.operators._filter_margin import held_out, logits, margin
from tierwise.operators._filtering import area_under_curve, least_confidence, raised
from tierwise.operators._views import OVERLAPPING, tiles, tiles_hold, view_items
from tierwise.runtime import Executor
from tierwise.tasks import Split
from tierwise.testing import check_operator

FOUND = ("0", "1", "2")
OPTIONS = {"filter": {"interesting": list(FOUND), "background": "7"}}


def judged(artifact, task, split):
    """Which items are dropped, which hold something, and what the artifact answers."""
    exit = artifact.manifest.segments[0].exit
    feeds, labels = task.tensors(task.splits[split].items), task.splits[split].labels
    confidence = run([onnx.load(artifact.path(artifact.manifest.segments[0].file))], feeds)[exit.confidence]
    dropped = confidence.reshape(-1) >= exit.threshold
    return dropped, np.isin(labels, [0, 1, 2]), Executor(artifact, threads=1).run(feeds)["logits"]


@pytest.mark.parametrize("chain", ["filter", "filter+sptq", "filter+partition", "filter+sptq+partition"])
def test_what_holds_nothing_is_answered_on_the_device(digits, cache, chain):
    artifact = open_artifact(build(digits, parse_chain(chain, OPTIONS), cache).directory)
    exit = artifact.manifest.segments[0].exit
    told = exit.filtering
    dropped, held, answer = judged(artifact, digits, "validation")
    assert dropped[held].mean() == pytest.approx(told.lost_frac)
    assert told.lost_frac <= 0.01
    assert dropped[~held].mean() == pytest.approx(told.empty_dropped_frac)
    assert dropped.mean() == pytest.approx(told.dropped_frac)
    assert exit.left_frac == told.dropped_frac
    assert told.roc_auc > 0.97
    assert told.empty_dropped_frac > 0.3
    assert told.parameters <= 10_000
    assert told.macs <= 0.05 * (artifact.manifest.segments[0].macs - told.macs)
    assert (answer[dropped].argmax(1) == 7).all()
    assert any("ROC-AUC" in note for note in artifact.manifest.provenance.notes)
    if chain == "filter":
        plain = build(digits, parse_chain("identity"), cache)
        expected = Executor(plain, threads=1).run(digits.tensors(digits.splits["validation"].items))["logits"]
        np.testing.assert_allclose(answer[~dropped], expected[~dropped], atol=1e-4)


@pytest.mark.parametrize("chain", ["bottleneck+filter", "bottleneck+filter+sptq"])
def test_behind_a_bottleneck_it_is_the_rate_of_zero_bytes(digits, cache, chain):
    narrow = {"preset": "ghnd", "cut": "blocks.0", "channels": 4, "codec": "affine", "epochs_frac": 0.05}
    artifact = build(digits, parse_chain(chain, {**OPTIONS, "bottleneck": narrow}), cache)
    head = artifact.manifest.segments[0]
    assert head.boundary is not None
    assert head.boundary.tensor in {spec.name for spec in artifact.manifest.segments[1].inputs}
    dropped, held, answer = judged(artifact, digits, "validation")
    assert (answer[dropped].argmax(1) == 7).all()
    assert dropped[held].mean() <= 0.01
    assert dropped.any()
    assert not dropped.all()
    passage = Executor(artifact, (0, 1), threads=1).advance(digits.tensors(digits.splits["validation"].items))
    assert len(passage.tensors[head.boundary.tensor]) == (~dropped).sum()


def test_the_curve_and_the_threshold_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    held = rng.random(60) < 0.5
    found = np.round(np.where(held, rng.normal(0.4, 0.2, 60), rng.normal(0.6, 0.2, 60)), 1).astype(np.float32)
    pairs = list(itertools.product(found[held], found[~held]))
    assert area_under_curve(found, held) == pytest.approx(np.mean([(a < b) + 0.5 * (a == b) for a, b in pairs]))
    for recall in (1.0, 0.9, 0.5):
        threshold = least_confidence(found, held, recall)
        assert (found[held] >= threshold).mean() <= 1 - recall + 1e-9
        lower = np.max(found[held & (found < threshold)])
        assert (found[held] >= lower).mean() > 1 - recall


def test_views_are_judged_by_classifiers_that_did_not_see_their_neighbours():
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(10), 4)
    held = rng.random(40) < 0.5
    # Number of the item and, weakly, what it holds.
    features = np.stack([items, held + rng.normal(0, 0.5, 40)], 1).astype(np.float32)
    learnt = []

    def learn(rows, holds):
        learnt.append((set(rows[:, 0].astype(int)), len(holds)))
        return trained_layers(
            rows, holds.astype(np.int64), classes=2, width=4, epochs=200, seed=0, advance=lambda _: None
        )

    found = held_out(features, held, items, folds=5, learn=learn)
    assert learnt == [(set(range(10)) - {first, first + 1}, 32) for first in range(0, 10, 2)]
    assert found.shape == (40,)
    last = learn(features[items < 8], held[items < 8])
    np.testing.assert_array_equal(found[items >= 8], logits(last, features[items >= 8]))
    assert area_under_curve(found, held) > 0.7


def test_a_margin_only_raises_the_threshold():
    held = np.array([True] * 100 + [False] * 20)
    judged = np.linspace(-3, 1, 120).astype(np.float32), held
    surer, shyer = ((judged[0] + shift, held) for shift in (2, -2))
    assert margin(judged, judged, 0.99) == 0
    assert margin(shyer, judged, 0.99) == 0
    found = margin(surer, judged, 0.99)
    threshold = least_confidence(judged[0], held, 0.99) + found
    lost = np.concatenate([surer[0][held], judged[0][held]]) >= threshold
    assert lost.sum() <= 2
    assert found > 0
    assert raised(0.5, 0.0) == 0.5
    assert raised(0.5, 2.0) == pytest.approx(1 / (1 + np.exp(-2)))
    assert 0.999 < raised(0.9999999, 30.0) < 1


def test_folds_raise_the_threshold_and_are_told(torch_task, cache):
    spec = Filter(interesting=torch_task.labels[:2], head_frac=0.9, least_recall=0.9)
    alone, folded = (build(torch_task, (replace(spec, folds=folds),), cache) for folds in (None, 3))
    thresholds = [one.manifest.segments[0].exit.threshold for one in (alone, folded)]
    assert thresholds[1] >= thresholds[0]
    told = folded.manifest.segments[0].exit.filtering
    assert raised(thresholds[0], told.margin) == pytest.approx(thresholds[1], abs=1e-5)
    assert any("had not seen its part of 3" in note for note in folded.manifest.provenance.notes)
    assert not any("had not seen" in note for note in alone.manifest.provenance.notes)
    with pytest.raises(SpecError, match="at least 2"):
        build(torch_task, (replace(spec, folds=1),), cache)
    np.testing.assert_array_equal(view_items(torch_task, "train"), np.arange(len(torch_task.splits["train"])))


def test_tiles_come_from_one_frame_and_slivers_are_left_out():
    pictures = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    cut = tiles(pictures)
    assert cut.shape == (4, 1, 8, 8)
    assert [float(tile.mean()) for tile in cut] == [13.5, 17.5, 45.5, 49.5]
    # One box in the first tile that reaches a little into the second, and a crowd in the third.
    labels = np.array([[[0.1, 0.1, 0.55, 0.4, 0, 0], [0.1, 0.6, 0.4, 0.9, 0, 1], [0, 0, 0, 0, -1, 0]]], np.float32)
    held, clear = tiles_hold(labels)
    assert held.tolist() == [True, False, False, False]
    assert clear.tolist() == [True, False, False, True]
    assert tiles(pictures, OVERLAPPING).shape == (9, 1, 8, 8)
    np.testing.assert_array_equal(tiles(pictures, OVERLAPPING)[[0, 2, 6, 8]], cut)
    held, clear = tiles_hold(labels, OVERLAPPING)
    # The second tile of the first row still has two thirds of the box; all others have a sliver, the crowd or both.
    assert held.reshape(3, 3).tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert clear.reshape(3, 3).tolist() == [[True, True, False], [False] * 3, [False, False, True]]


def test_peaks_are_the_average_and_the_largest_value_of_each_channel():
    given = np.random.default_rng(0).normal(size=(3, 5, 4, 6)).astype(np.float32)
    spec = TensorSpec(name="x", dtype="FP32", shape=(-1, 5, 4, 6))
    nodes, constants, name = features_graph(spec, "exit0", 4, peaks=True)
    ends = [helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, None) for one in ("x", name)]
    graph = helper.make_graph(nodes, "peaks", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    expected = np.concatenate([given.mean((2, 3)), given.max((2, 3))], 1)
    np.testing.assert_allclose(run([model], {"x": given})[name], expected, rtol=1e-5, atol=1e-6)


def test_the_contract_holds(torch_task, onnx_task):
    for task in (torch_task, onnx_task):
        check_operator(Filter(interesting=("1", "2"), epochs=2, most_macs_frac=0.5), task)


def test_it_stands_where_exits_do():
    for text in ("filter+partition", "bottleneck+filter", "bottleneck+filter+sptq", "distill+filter+qat"):
        assert chain_text(parse_chain(text)) == text
    for text, legal in (
        ("filter+bottleneck", r"bottleneck\+filter"),
        ("sptq+filter", r"filter\+sptq"),
        ("partition+filter", r"filter\+partition"),
        ("filter+early-exit", "filter"),
    ):
        with pytest.raises(ChainError, match=f"nearest legal chain is '{legal}'"):
            parse_chain(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "some of 0, 1, .*, not all, but got none"),
        ({"interesting": ("x",)}, "but got x"),
        ({"interesting": tuple("0123456789")}, "not all"),
        ({"interesting": ("1",), "background": "1"}, "must not be of interest"),
    ],
)
def test_classes_that_do_not_fit_are_refused(torch_task, cache, options, message):
    with pytest.raises(SpecError, match=message):
        build(torch_task, (Filter(**options),), cache)


def test_a_filter_that_is_too_large_or_has_nothing_to_learn_is_refused(torch_task, cache):
    with pytest.raises(InputError, match="at most 3 parameters"):
        build(torch_task, (Filter(interesting=("1",), most_parameters=3),), cache)
    splits = {**torch_task.splits, "validation": Split([], np.zeros(0, np.int64))}
    task = dataclasses.replace(torch_task, splits=splits, fingerprint="6" * 64)
    with pytest.raises(InputError, match="validation items with and without something of interest, but got 0 with"):
        build(task, (Filter(interesting=("1",), most_macs_frac=0.5),), cache)


class Killed(Silent):
    """Stops a build where it says that a filter is trained."""

    def step(self, title, steps):
        if title == "train filter":
            raise KeyboardInterrupt
        return super().step(title, steps)


def test_a_killed_build_leaves_nothing_and_the_next_one_goes_on(torch_task, tmp_path):
    chain = (Filter(interesting=("1", "2"), epochs=2, most_macs_frac=0.5),)
    whole = build(torch_task, chain, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        build(torch_task, chain, tmp_path / "killed", progress=Killed())
    assert not (tmp_path / "killed" / "artifacts").exists()
    again = build(torch_task, chain, tmp_path / "killed")
    assert again.path("segment0.onnx").read_bytes() == whole.path("segment0.onnx").read_bytes()
    assert again.manifest.segments == whole.manifest.segments
