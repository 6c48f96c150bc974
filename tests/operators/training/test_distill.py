from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tierwise._errors import ChainError, InputError, SpecError
from tierwise.measure import Silent
from tierwise.operators import Context, Distill, Work, apply, build, parse_chain, resolve
from tierwise.operators._distillation import Distillation, matching_layers
from tierwise.operators._inheritance import inherit
from tierwise.operators._students import derive, tuning
from tierwise.tasks import (
    Bert,
    DenseNet,
    FullSize,
    Inception,
    MobileNetV2,
    ResNet,
    ResNeXt,
    Roberta,
    Training,
    build_student,
)
from tierwise.testing import check_operator

SHORT = Training(epochs=1, batch=64, learning_rate=1e-3, precision="float32")


def test_half_the_width_learns_from_the_whole(digits, built, accuracy):
    whole = build(digits, parse_chain("identity"), built)
    artifact = build(digits, parse_chain("distill"), built)
    manifest = artifact.manifest
    assert 0.2 <= manifest.segments[0].macs / whole.manifest.segments[0].macs <= 0.3
    assert accuracy(artifact) >= accuracy(whole) - 0.04
    (spec,) = manifest.provenance.specs
    assert (spec["student"]["depth"], spec["student"]["width"]) == (8, 8)
    assert spec["training"]["epochs"] == 10
    (note,) = manifest.provenance.notes
    assert note.startswith("distill: a student of its own shape with 25 % of the teacher's arithmetic and 25 %")


def test_features_help_through_adapters_that_stay_behind(digits, built, accuracy):
    options = {"distill": {"feature_weight": 0.3, "depth_frac": 0.5, "training": {"epochs": 8, "batch": 64}}}
    artifact = build(digits, parse_chain("distill", options), built)
    assert accuracy(artifact) >= 0.9
    assert "features weighted 0.3" in artifact.manifest.provenance.notes[0]


@pytest.mark.parametrize("spec", [Distill(student=ResNet(depth=8, width=8), training=SHORT, feature_weight=0.1)])
def test_distillation_keeps_the_contract_of_operators(digits, spec):
    check_operator(spec, digits, tolerance=5)


def test_the_loss_is_the_published_one():
    torch.manual_seed(0)
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    batch, labels = {"x": torch.randn(5, 4)}, torch.tensor([0, 1, 2, 0, 1])
    temperature = 3.0
    wanted = torch.softmax(teacher(batch["x"]) / temperature, 1)
    got = torch.log_softmax(student(batch["x"]) / temperature, 1)
    soft = (wanted * (wanted.log() - got)).sum(1).mean() * temperature**2
    hard = nn.functional.cross_entropy(student(batch["x"]), labels)
    loss = Distillation(copy.deepcopy(teacher), temperature=temperature, soft_frac=0.6)(student, batch, labels)
    torch.testing.assert_close(loss, 0.6 * soft + 0.4 * hard)
    assert Distillation(copy.deepcopy(student), temperature=2, soft_frac=1)(student, batch, labels) < 1e-6


def test_only_adapters_are_trained_along():
    teacher, student = (nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)) for width in (8, 6))
    batch = {"x": torch.randn(5, 4)}
    loss = Distillation(
        teacher, temperature=2, soft_frac=0, feature_weight=1, layers=[("1", "1")], student=student, example=batch
    )
    assert {name: list(p.shape) for name, p in loss.named_parameters()} == {"adapters.0.weight": [8, 6]}
    value = loss(student, batch, torch.zeros(5, dtype=torch.int64))
    value.backward()
    assert all(p.grad is None for p in teacher.parameters())
    with torch.no_grad():
        plain = nn.functional.cross_entropy(student(batch["x"]), torch.zeros(5, dtype=torch.int64))
        features = nn.functional.mse_loss(loss.adapters[0](student[:2](batch["x"])), teacher[:2](batch["x"]))
    torch.testing.assert_close(value, plain + features)


def test_layers_of_equal_depth_are_paired(digits):
    teacher, student = (build_student(digits, ResNet(depth=depth, width=8)) for depth in (20, 8))
    assert matching_layers(teacher, student) == (
        ("blocks.2", "blocks.0"),
        ("blocks.5", "blocks.1"),
        ("blocks.8", "blocks.2"),
    )
    with pytest.raises(InputError, match=r"must have a list of blocks at the same path.*feature_weight = 0"):
        matching_layers(nn.Linear(2, 2), student)


@pytest.mark.parametrize(
    ("subject", "shares", "smaller"),
    [
        (ResNet(depth=20, width=16), (0.5, 0.5), ResNet(depth=14, width=8)),
        (ResNet(depth=29, width=32, block="bottleneck"), (0.3, 1), ResNet(depth=11, width=32, block="bottleneck")),
        (ResNeXt(), (1, 0.5), ResNeXt(width=32, group_width=32)),
        (MobileNetV2(), (0.5, 0.5), MobileNetV2(width_frac=0.5)),
        (DenseNet(), (0.5, 0.5), DenseNet(depth=22, growth=6)),
        (Inception(), (1, 0.5), Inception(width=48)),
        (Bert(size="mini"), (0.5, 0.5), Bert(size="mini", layers=2, hidden=128)),
        (Roberta(size="tiny"), (0.5, 1), Roberta(size="tiny", layers=1, hidden=128)),
    ],
)
def test_students_are_derived_within_the_family(subject, shares, smaller):
    assert derive(subject, *shares) == smaller


def test_derived_text_students_are_built_and_read_the_same_tokens(text_task):
    task = dataclasses.replace(text_task, subject=Bert(size="mini", vocabulary=300, max_length=16))
    student = build_student(task, Bert(size="mini", vocabulary=300, max_length=16, layers=1, hidden=64))
    assert len(student.encoder.encoder.layer) == 1
    with pytest.raises(SpecError, match=r"the vocabulary of a text subject must be the task's own, 300, but got 500"):
        build_student(task, Bert(vocabulary=500, max_length=16))
    with pytest.raises(SpecError, match=r"must be of the family of the task's own, which made the tokens, but got Rob"):
        build_student(task, Roberta())


def test_students_that_cannot_be_had_are_refused(digits, torch_task, tmp_path):
    with pytest.raises(InputError, match=r"a derived student must be smaller than its teacher, but got depth_frac = 1"):
        derive(ResNet(depth=8, width=8), 1, 0.5)
    with pytest.raises(InputError, match=r"of published shape must be named, but got shares of resnet50.*resnet18"):
        derive(FullSize(architecture="resnet50"), 1, 0.5)
    with pytest.raises(InputError, match=r"derived only from a built-in subject or by the task's own function"):
        build(torch_task, parse_chain("distill"), tmp_path)
    with pytest.raises(InputError, match=r"must take what the task sends, but got a text subject for pictures"):
        build(digits, (Distill(student=Bert()),), tmp_path)
    with pytest.raises(SpecError, match=r"distill.feature_weight: features need a weight"):
        build(digits, (Distill(features=(("blocks.0", "blocks.0"),)),), tmp_path)
    with pytest.raises(InputError, match=r"a feature must be the path of a submodule, but got 'nowhere'"):
        build(digits, (Distill(features=(("nowhere", "blocks.0"),), feature_weight=1),), tmp_path)


class Small(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.stem(x)).mean((2, 3)))


def test_a_users_task_gives_its_own_student(torch_task, tmp_path):
    task = dataclasses.replace(torch_task, student=lambda depth, width: Small(round(8 * width)))
    work = Work(task=task, model=build_identity(task), module=task.model)
    done = apply(Distill(training=SHORT, width_frac=0.25), work, Context(folder=tmp_path))
    assert done.blueprint.shares == (1.0, 0.25)
    assert done.module(Silent()).stem.out_channels == 2
    assert done.history[0].student == "derived"


def build_identity(task):
    from tierwise.capture import export

    return export(task.model(Silent()), task.example(), task.outputs)


def test_training_follows_from_the_tasks_own(digits, torch_task):
    part = tuning(None, digits, epochs_frac=0.25, rate_frac=0.5)
    assert (part.epochs, part.batch, part.learning_rate) == (2, 64, 2e-3)
    assert tuning(SHORT, digits, epochs_frac=0.25, rate_frac=0.5) == SHORT
    assert tuning(None, torch_task, epochs_frac=0.01, rate_frac=1).epochs == 1


def test_after_pruning_the_pruned_model_is_the_student(digits, built):
    work = Work(task=digits, model=None, module=digits.model, history=parse_chain("prune"))
    assert resolve(Distill(), work, Context(folder=built)).student == "given"
    assert resolve(Distill(student="derived"), work, Context(folder=built)).student == ResNet(depth=8, width=8)
    assert np.isclose(resolve(Distill(), work, Context(folder=built)).training.learning_rate, 2e-3)


def test_distilling_twice_is_refused():
    with pytest.raises(ChainError, match=r"not repeat an operator.*nearest legal chain is 'distill\+prune'"):
        parse_chain("distill+prune+distill")


def numbered(task, subject):
    """A module of ``subject`` in which every tensor tells where it comes from."""
    module = build_student(task, subject)
    for i, tensor in enumerate(module.state_dict().values()):
        tensor.fill_(i)
    return module


@pytest.mark.parametrize(("layers", "taken"), [(6, (0, 2, 4, 7, 9, 11)), (3, (0, 6, 11)), (1, (0,))])
def test_a_student_starts_from_evenly_spaced_layers(text_task, layers, taken):
    own = Bert(vocabulary=300, max_length=16, layers=12, hidden=64)
    task = dataclasses.replace(text_task, subject=own)
    teacher = numbered(task, own)
    student = build_student(task, derive(own, layers / 12, 1.0))
    found = inherit(teacher, student)
    assert found is not None
    assert found.kept == (("encoder.encoder.layer", taken, 12),)
    given = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        match = re.match(r"encoder\.encoder\.layer\.(\d+)(.*)", name)
        source = name if match is None else f"encoder.encoder.layer.{taken[int(match[1])]}{match[2]}"
        assert torch.equal(tensor, given[source]), name
    if layers == 3:
        assert found.words == "3 of 12 (the 1., 7., 12.)"


def test_stages_of_a_residual_network_keep_their_first_blocks(digits):
    teacher, student = (build_student(digits, ResNet(depth=depth, width=8)) for depth in (32, 14))
    found = inherit(teacher, student)
    assert found is not None
    # Five blocks a stage become two: in the first stage all blocks are alike, in the others the first is of its own.
    assert found.kept == (("blocks", (0, 4, 5, 6, 10, 11), 15),)
    for name, tensor in student.blocks[2].state_dict().items():
        assert torch.equal(tensor, teacher.blocks[5].state_dict()[name])


def test_what_does_not_fit_is_left_as_it_is(digits, tmp_path):
    teacher, narrow, same = (build_student(digits, ResNet(depth=d, width=w)) for d, w in ((14, 8), (8, 4), (14, 8)))
    before = copy.deepcopy(narrow.state_dict())
    assert inherit(teacher, narrow) is None
    assert inherit(teacher, same) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in narrow.state_dict().items())
    with pytest.raises(InputError, match=r"its teacher with fewer layers .* Derive it with depth_frac below 1"):
        build(digits, (Distill(student=ResNet(depth=8, width=8), start="teacher", training=SHORT),), tmp_path)
    for wrong in (Distill(student="given", start="random", training=SHORT), Distill(start="own", training=SHORT)):
        with pytest.raises(SpecError, match="has its own weights, and no other has"):
            build(digits, (wrong,), tmp_path)


def test_a_start_on_auto_is_resolved_by_what_the_student_is(digits, text_task):
    def start(task, **options):
        work = Work(task=task, model=onnx.ModelProto(), module=None)
        return resolve(Distill(training=SHORT, **options), work, Context(folder=Path())).start

    assert start(digits) == "random"
    assert start(digits, student=ResNet(depth=8, width=8)) == "random"
    assert start(digits, student="given") == "own"
    deep = dataclasses.replace(digits, subject=ResNet(depth=20, width=8))
    assert start(deep, student=ResNet(depth=8, width=8)) == "teacher"
    assert start(deep, depth_frac=0.5, width_frac=1) == "teacher"
    encoder = dataclasses.replace(text_task, subject=Bert(size="mini", vocabulary=300, max_length=16))
    assert start(encoder, depth_frac=0.5, width_frac=1) == "teacher"
    assert start(encoder, depth_frac=0.5, width_frac=0.5) == "random"
    assert start(encoder, depth_frac=0.5, width_frac=1, start="random") == "random"


def test_a_start_from_the_teacher_is_noted(digits, built):
    deep = dataclasses.replace(digits, subject=ResNet(depth=14, width=16), fingerprint="deep")
    module = build_student(deep, deep.subject)
    deep = dataclasses.replace(deep, model=lambda progress: module.eval())
    kept, fresh = (
        build(deep, (Distill(depth_frac=0.5, width_frac=1, start=start, training=SHORT),), built)
        for start in ("auto", "random")
    )
    assert "that starts from its layers, 3 of 6 (the 1., 3., 5.)," in kept.manifest.provenance.notes[0]
    assert "starts from" not in fresh.manifest.provenance.notes[0]
