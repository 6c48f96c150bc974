"""Published schemes on the models of this room, and what counts as a block."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tierwise._errors import SpecError
from tierwise.artifact import Optimiser
from tierwise.tasks import Bert, FullSize, MobileNetV2, build_subject
from tierwise.training import PRESETS, Scheme, read_scheme, training_step_of
from tierwise.training.compiler import (
    Model,
    blocks,
    compile_training,
    computing,
    predict_step,
    reach,
    read_model,
    resolve,
    settled,
)
from tierwise.training.search import write_scheme


def model_of(module: torch.nn.Module, **inputs: torch.Tensor) -> Model:
    return read_model(module.eval(), inputs)


@pytest.fixture(scope="module")
def mobilenet() -> Model:
    torch.manual_seed(0)
    return model_of(build_subject(MobileNetV2(width_frac=0.35), classes=10), input=torch.zeros(2, 3, 32, 32))


def text_inputs() -> dict[str, torch.Tensor]:
    ids = torch.ones(2, 8, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": ids, "token_type_ids": torch.zeros_like(ids)}


@pytest.fixture(scope="module")
def encoder() -> Model:
    subject = Bert(layers=7, hidden=32, head_width=16, vocabulary=50)
    return model_of(build_subject(subject, classes=3), **text_inputs())


def test_first_pointwise_convolutions_are_every_third_one(mobilenet: Model) -> None:
    found = [block for block in blocks(mobilenet) if len(block.layers) > 1]
    assert [block.name for block in found] == [f"blocks.{i}" for i in range(17)]
    names = [layer.name for layer in computing(mobilenet)]
    assert [names.index(block.weights[0]) for block in found[1:]] == [3 * i for i in range(1, 17)]


def test_published_scheme_of_mobilenet_trains_the_layers_it_names(mobilenet: Model) -> None:
    scheme = settled(read_scheme("mobilenetv2-99kb"), mobilenet)
    assert scheme.biases == 26  # the last 25 convolutions and the classifier
    assert list(scheme.weights) == [f"blocks.{i}.expand.conv" for i in range(9, 17)]
    assert list(scheme.weights.values()) == [1, 1, 1, 1, 1, 0.125, 0.5, 1]
    trained = {one.name: one for one in resolve(read_scheme("mobilenetv2-99kb"), mobilenet)}
    width = mobilenet.tensors["blocks.14.expand.conv.weight"].shape[1]
    assert trained["blocks.14.expand.conv.weight"].shape[1] == max(1, round(width / 8))
    assert "blocks.8.project.conv.bias" not in trained
    assert {"classifier.weight", "blocks.9.expand.conv.bias", "last.conv.bias"} <= set(trained)


def test_scheme_of_mobilenet_leaves_a_frozen_prefix(mobilenet: Model) -> None:
    batch = ((torch.zeros(1, 3, 32, 32),), torch.zeros(1, dtype=torch.int64))
    trained = resolve(read_scheme("mobilenetv2-73kb"), mobilenet)
    got = predict_step(mobilenet, trained, Optimiser(kind="sgd"), batch)
    assert got.prefix_macs > 0
    assert got.step_macs > 0
    assert got.state_bytes == 4 * sum(math.prod(one.shape) for one in trained)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("mobilenetv2")])
def test_every_scheme_of_mobilenet_resolves(name: str, mobilenet: Model) -> None:
    scheme = settled(read_scheme(name), mobilenet)
    assert len(resolve(scheme, mobilenet)) == scheme.biases + len(scheme.weights) + 1


def test_bottlenecks_give_their_first_convolution() -> None:
    with torch.device("meta"):
        module = build_subject(FullSize(architecture="resnet50"), classes=10)
        scheme = settled(read_scheme("resnet50"), model_of(module, input=torch.zeros(2, 3, 64, 64)))
    assert list(scheme.weights) == [f"blocks.{i}.layers.0.conv" for i in range(8, 16)]
    assert scheme.biases == 8 * 3 + 1 + 1  # with one shortcut and the classifier


def test_attention_gives_its_projections_and_the_first_layer_behind(encoder: Model) -> None:
    scheme = settled(read_scheme("bert"), encoder)
    first = "encoder.encoder.layer.3."
    inner = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    assert set(list(scheme.weights)[:5]) == {first + name for name in [*inner, "intermediate.dense"]}
    assert len(scheme.weights) == 4 * 5
    assert scheme.biases == reach(encoder, "encoder.encoder.layer.1.attention.self.query")


@pytest.mark.parametrize(("name", "got"), [("mcunet-99kb", "52 convolutions"), ("bert", "0 blocks of attention")])
def test_scheme_of_another_family_is_refused(name: str, got: str, mobilenet: Model) -> None:
    with pytest.raises(SpecError, match=got):
        resolve(read_scheme(name), mobilenet)


def test_preset_in_a_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('preset = "resnet50"\n')
    assert read_scheme(str(path)) == Scheme(preset="resnet50")
    for text in ('preset = "resnet51"\n', 'preset = "resnet50"\nbiases = 3\n'):
        path.write_text(text)
        with pytest.raises(SpecError, match="preset"):
            read_scheme(str(path))


def test_written_scheme_reads_as_it_was(tmp_path: Path) -> None:
    scheme = Scheme(biases=7, whole=1, weights={"blocks.4.conv1": 0.125, 'odd "name"': 1.0})
    write_scheme(tmp_path / "s.toml", scheme, ("a note",))
    assert read_scheme(str(tmp_path / "s.toml")) == scheme
    assert read_scheme(str(tmp_path / "s.toml")).weights != {}


def test_what_was_predicted_to_fit_compiles_within_it(kit: Any, tmp_path: Path) -> None:
    module, lesson = kit.seeded("resnet"), kit.lesson("resnet")
    scheme, how = Scheme(biases=4, whole=1, weights={"blocks.2.layers.0.conv": 0.5}), Optimiser(kind="momentum")
    x, y = lesson.batches[0]
    pictures = torch.from_numpy(x["input"])
    model = model_of(kit.seeded("resnet"), input=pictures)
    got = predict_step(model, resolve(scheme, model), how, ((pictures,), torch.from_numpy(y)))
    made = compile_training(module, lesson, scheme, how, tmp_path / "a", most_bytes=got.bytes)
    plan = training_step_of(made).plan
    assert got.state_bytes == plan.state_bytes
    assert got.step_macs + got.prefix_macs == plan.step_macs + plan.prefix_macs
