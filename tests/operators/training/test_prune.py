from __future__ import annotations

import copy
import dataclasses
import json
import statistics

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tierwise._errors import ChainError, InputError, SpecError
from tierwise.artifact import ImageInput
from tierwise.measure import Silent
from tierwise.operators import Prune, build, check_chain, parse_chain
from tierwise.operators._blueprint import Blueprint, kept_module, save_module, sizes_changed
from tierwise.operators._channels import ChannelGroup, channel_groups, channel_scores, remove_channels
from tierwise.operators._widths import count_macs, latency_frac, search_widths, widths_at
from tierwise.operators._work import Work
from tierwise.tasks import (
    Bert,
    DenseNet,
    Inception,
    MobileNetV2,
    ResNet,
    ResNeXt,
    Roberta,
    Split,
    Task,
    Training,
    build_student,
)
from tierwise.testing import check_operator

SHORT = Training(epochs=1, batch=64, learning_rate=1e-3, precision="float32")


def untrained(subject, size: int = 8) -> tuple[Task, nn.Module]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 256, (size, size, 1), dtype=np.uint8) for _ in range(4)]
    task = Task(
        name="noise",
        encoding=ImageInput(encoding="uint8", height=size, width=size, channels=1, mean=(0.5,), std=(0.3,)),
        labels=tuple("0123456789"),
        splits=dict.fromkeys(("train", "calibration", "validation", "test"), Split(items, np.arange(4))),
        model=None,
        subject=subject,
    )
    net = build_student(task, subject).eval()
    return dataclasses.replace(task, model=lambda progress: net), net


def tokens(subject) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    from tierwise.tasks._subject import build_subject

    torch.manual_seed(0)
    ids = torch.randint(5, 100, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    example = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    if isinstance(subject, Roberta):
        del example["token_type_ids"]
    return build_subject(subject, classes=2).eval(), example


def search(module, task, **target):
    asked = {"ratio": None, "macs_frac": None, "latency_target": None, "importance": "magnitude", "scope": "network"}
    return search_widths(module, task, **{**asked, "multiple": 8, "progress": Silent(), **target})


def test_half_of_the_arithmetic_leaves_and_the_accuracy_stays(digits, built, accuracy):
    whole = build(digits, parse_chain("identity"), built)
    artifact = build(digits, parse_chain("prune"), built)
    macs = [each.manifest.segments[0].macs for each in (artifact, whole)]
    assert 0.45 <= macs[0] / macs[1] <= 0.5
    assert accuracy(artifact) >= accuracy(whole) - 0.04
    (spec,) = artifact.manifest.provenance.specs
    assert all(width % 8 == 0 for width in spec["widths"].values())
    assert spec["training"]["epochs"] == 2
    (note,) = artifact.manifest.provenance.notes
    assert "% of the arithmetic and" in note
    assert "validation accuracy 0.9" in note
    assert artifact.manifest.provenance.training_s > 0
    # What was found is kept: asking again neither searches nor trains.
    stamps = {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()}
    assert build(digits, parse_chain("prune"), built).digest == artifact.digest
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()} == stamps


@pytest.mark.parametrize("scope", ["network", "layer"])
@pytest.mark.parametrize("target", [0.7, 0.3])
def test_a_share_of_the_arithmetic_is_reached_by_search(scope, target):
    task, net = untrained(ResNet(depth=8, width=32))
    found = search(net, task, macs_frac=target, scope=scope)
    small = copy.deepcopy(net)
    remove_channels(small, task.example(), found.widths, channel_scores(net, task.example(), "magnitude"))
    reached = count_macs(small, task.example()) / count_macs(net, task.example())
    assert reached == found.reached_frac
    assert target - 0.04 <= reached <= target


def test_the_arithmetic_counted_is_that_of_the_exported_model():
    from tierwise.capture import export, read_graph

    task, net = untrained(ResNet(depth=8, width=8))
    assert count_macs(net, task.example()) == read_graph(export(net, task.example(), ["logits"])).macs


@pytest.mark.emulation
def test_a_share_of_the_time_is_reached_by_measuring():
    task, net = untrained(ResNet(depth=8, width=32), size=32)
    found = search(net, task, latency_target=0.5, multiple=16)
    assert found.reached_frac <= 0.5
    small = copy.deepcopy(net)
    remove_channels(small, task.example(), found.widths, channel_scores(net, task.example(), "magnitude"))
    from tierwise.capture import export

    models = [export(each, task.example(), ["logits"]) for each in (small, net)]
    assert 0.3 <= statistics.median(latency_frac(*models, task) for _ in range(5)) <= 0.6


def test_targets_out_of_reach_are_refused_with_what_can_be_had():
    task, net = untrained(ResNet(depth=8, width=16))
    with pytest.raises(
        InputError,
        match=r"prune: macs_frac must be within reach of this model; its smallest shape has 0\.1\d+, but got 0\.001",
    ):
        search(net, task, macs_frac=0.001)


def test_both_importances_and_both_scopes_choose_differently():
    task, net = untrained(ResNet(depth=8, width=32))
    with torch.no_grad():
        net.blocks[0].layers[0].conv.weight[:8] *= 0.01
    example = task.example()
    nn.functional.cross_entropy(net(*example.values()), torch.tensor([0, 1])).backward()
    groups = channel_groups(net, example)
    scores = {kind: channel_scores(net, example, kind) for kind in ("magnitude", "taylor")}
    name = "blocks.0.layers.0.conv"
    assert set(torch.argsort(scores["magnitude"][name])[:8].tolist()) == set(range(8))
    assert not torch.allclose(scores["magnitude"][name], scores["taylor"][name])
    same = widths_at(0.25, groups, scores["magnitude"], "layer", 8)
    assert {group.name: group.channels * 3 // 4 for group in groups} == same
    assert widths_at(0.25, groups, scores["magnitude"], "network", 8) != same


def test_what_leaves_are_the_least_channels():
    task, net = untrained(ResNet(depth=8, width=16))
    example = task.example()
    name = "blocks.0.layers.0.conv"
    with torch.no_grad():
        block = net.blocks[0].layers
        block[0].conv.weight[3:11] = 0
        block[0].norm.weight[3:11] = 0
        block[0].norm.bias[3:11] = 0
        block[1].conv.weight[:, 3:11] = 0
    before = net(*example.values())
    remove_channels(net, example, {name: 8}, channel_scores(net, example, "magnitude"))
    assert net.blocks[0].layers[0].conv.out_channels == 8
    torch.testing.assert_close(net(*example.values()), before)


def test_grouped_convolutions_keep_their_groups():
    task, net = untrained(ResNeXt(depth=11, width=16, cardinality=4, group_width=8))
    groups = {group.name: group for group in channel_groups(net, task.example())}
    assert groups["blocks.0.layers.1.conv"].parts == 4
    found = search(net, task, macs_frac=0.5)
    remove_channels(net, task.example(), found.widths, channel_scores(net, task.example(), "magnitude"))
    conv = net.blocks[2].layers[1].conv
    assert conv.groups == 4
    assert conv.in_channels % 8 == conv.out_channels % 8 == 0
    assert 0.45 <= found.reached_frac <= 0.5


@pytest.mark.parametrize(
    "subject", [MobileNetV2(width_frac=0.5, reduction=8), DenseNet(depth=16, growth=16), Inception(width=48)]
)
def test_channels_that_are_concatenated_or_filtered_alone_leave_together(subject):
    task, net = untrained(subject, size=16)
    found = search(net, task, macs_frac=0.5)
    assert 0.4 <= found.reached_frac <= 0.5
    scores = channel_scores(net, task.example(), "magnitude")
    before = sum(tensor.numel() for tensor in net.parameters())
    remove_channels(net, task.example(), found.widths, scores)
    assert sum(tensor.numel() for tensor in net.parameters()) < 0.8 * before
    assert net(*task.example().values()).shape == (2, 10)


@pytest.mark.parametrize("subject", [Bert(size="mini", vocabulary=300), Roberta(size="mini", vocabulary=300)])
def test_whole_heads_and_inner_widths_of_transformers_leave(subject):
    net, example = tokens(subject)
    groups = {group.name: group for group in channel_groups(net, example)}
    value = "encoder.encoder.layer.0.attention.self.value"
    assert (groups[value].head, groups[value].channels) == (64, 256)
    assert not any("embeddings" in name or name.endswith("output.dense") for name in groups)
    scores = channel_scores(net, example, "magnitude")
    assert scores[value].shape == (4,)
    gone = int(torch.argmin(scores[value]))
    silenced = copy.deepcopy(net)
    with torch.no_grad():
        layer = silenced.encoder.encoder.layer[0].attention.output.dense
        layer.weight[:, 64 * gone : 64 * gone + 64] = 0
    widths = {value: 192}
    remove_channels(net, example, widths, scores)
    assert net.encoder.encoder.layer[0].attention.self.query.out_features == 192
    torch.testing.assert_close(net(*example.values()), silenced(*example.values()), atol=1e-5, rtol=1e-4)
    remove_channels(net, example, {"encoder.encoder.layer.0.intermediate.dense": 512}, scores)
    assert net.encoder.encoder.layer[0].output.dense.in_features == 512


def test_rounding_knows_groups_heads_and_layers_that_are_too_narrow():
    assert ChannelGroup("plain", 64).rounded(29, 8) == 32
    assert ChannelGroup("plain", 64).rounded(1, 8) == 8
    assert ChannelGroup("grouped", 96, parts=6).rounded(40, 8) == 48
    assert ChannelGroup("heads", 256, head=64).rounded(100, 8) == 128
    assert ChannelGroup("narrow", 6).rounded(1, 8) == 6
    assert ChannelGroup("grouped", 8, parts=2).indices([1]) == [1, 5]
    assert ChannelGroup("heads", 8, head=4).indices([1]) == [4, 5, 6, 7]


def test_a_pruned_module_is_built_again_from_plain_data(tmp_path):
    task, net = untrained(ResNet(depth=8, width=16))
    small = copy.deepcopy(net)
    widths = {"stem.conv": 8, "blocks.1.layers.0.conv": 16}
    remove_channels(small, task.example(), widths, channel_scores(small, task.example(), "magnitude"))
    blueprint = Blueprint(sizes=sizes_changed(net, small))
    assert json.loads(json.dumps(blueprint.sizes["stem.conv"])) == {"out_channels": 8}
    work = Work(task=task, model=onnx.ModelProto(), module=lambda progress: small)
    save_module(work, tmp_path / "module.safetensors")
    again = kept_module(task, blueprint, tmp_path / "module.safetensors")(Silent())
    example = task.example()
    torch.testing.assert_close(again(*example.values()), small(*example.values()), rtol=0, atol=0)
    assert again.blocks[1].layers[0].conv.out_channels == 16
    assert net.stem.conv.out_channels == 16


def test_single_weights_become_zero_and_stay_so(digits, built, accuracy):
    options = {"prune": {"structure": "weights", "ratio": 0.7, "steps": 2, "training": {"epochs": 2, "batch": 64}}}
    artifact = build(digits, parse_chain("prune", options), built)
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(artifact.path("model.onnx")).graph.initializer
        if tensor.name.endswith("weight") and len(tensor.dims) > 1
    ]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.size for weight in weights)
    assert zeros == pytest.approx(0.7, abs=0.01)
    assert accuracy(artifact) >= 0.93
    (note,) = artifact.manifest.provenance.notes
    assert "size only after compression" in note
    assert "nothing is faster" in note


@pytest.mark.parametrize("spec", [Prune(steps=2, round_to=2, training=SHORT), Prune(structure="weights", steps=1)])
def test_pruning_keeps_the_contract_of_operators(torch_task, spec):
    check_operator(spec, torch_task, tolerance=5)


def test_targets_that_make_no_sense_are_refused(digits, tmp_path):
    with pytest.raises(SpecError, match=r"prune: one target at most must be given, not ratio and macs_frac"):
        build(digits, (Prune(ratio=0.5, macs_frac=0.5),), tmp_path)
    with pytest.raises(SpecError, match=r'the target of structure = "weights" must be a ratio, but got macs_frac'):
        build(digits, (Prune(structure="weights", macs_frac=0.5),), tmp_path)
    with pytest.raises(SpecError, match=r"prune.*`float` < 1.0"):
        parse_chain("prune", {"prune": {"ratio": 1.0}})
    with pytest.raises(InputError, match=r"widths must name groups of channels: .*stem.conv.*but got 'stem'"):
        build(digits, (Prune(widths={"stem": 8}, steps=1),), tmp_path)
    with pytest.raises(InputError, match=r"width of stem.conv must be a multiple of 1 up to 16, but got 17"):
        build(digits, (Prune(widths={"stem.conv": 17}, steps=1),), tmp_path)


class Stubborn(nn.Module):
    """A model that knows its sizes by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x.flatten(1))).reshape(-1, 32))


def test_models_that_cannot_be_pruned_say_so():
    task, _ = untrained(ResNet(depth=8, width=8))
    example = task.example()
    with pytest.raises(InputError, match=r'Linear: the model must have channels that can leave.*structure = "weights"'):
        channel_groups(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))[1], {"x": torch.zeros(2, 64)})
    net = Stubborn()
    with pytest.raises(
        InputError, match=r"the model must run with fewer channels .*takes? sizes from its tensors|able to"
    ):
        remove_channels(net, example, {"first": 8}, channel_scores(net, example, "magnitude"))


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("sptq+prune", "prune+sptq"),
        ("prune+prune", "prune"),
        ("partition+prune", "prune+partition"),
        ("identity+prune", "prune"),
        ("sptq+distill+prune", "distill+prune+sptq"),
    ],
)
def test_illegal_orders_name_the_nearest_legal_chain(text, nearest):
    with pytest.raises(ChainError, match=f"nearest legal chain is '{nearest}'".replace("+", r"\+")):
        parse_chain(text)


def test_zeros_are_not_trained_away():
    check_chain((*parse_chain("distill"), Prune(structure="weights")))
    with pytest.raises(ChainError, match=r"single weights were set to zero.*got 'prune\+distill'.*'distill\+prune'"):
        check_chain((Prune(structure="weights"), *parse_chain("distill")))
    check_chain(parse_chain("prune+distill+sptq+partition"))


def test_pruning_needs_the_torch_model(onnx_task, tmp_path):
    with pytest.raises(InputError, match=r"the operator 'prune' needs the torch model, but got a task that came as an"):
        build(onnx_task, parse_chain("prune"), tmp_path)
