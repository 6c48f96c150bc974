"""The compiled step does what eager PyTorch does, for every kind of model, scheme and optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tierwise.artifact import Optimiser
from tierwise.training import Scheme, TrainingSession
from tierwise.training.compiler import compile_training

RATES = {"sgd": 0.01, "momentum": 0.01, "adam": 1e-3, "lion": 1e-4}
SPARSE = {
    "resnet": Scheme(biases=6, whole=1, weights={"blocks.1.layers.1.conv": 0.5}),
    "mobilenet": Scheme(biases=9, whole=1),
    "bert": Scheme(biases=6, whole=1),
}


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "bert"])
def test_twenty_steps_are_those_of_eager_pytorch(kit: Any, kind: str, optimiser: str, tmp_path: Path) -> None:
    made = compile_training(
        kit.seeded(kind),
        kit.lesson(kind),
        SPARSE[kind],
        Optimiser(kind=optimiser, rate=RATES[optimiser]),
        tmp_path / "a",
    )
    found = TrainingSession(made).verified
    assert found.steps == 20
    assert found.loss_error < 1e-5
    assert found.weight_error < 1e-5


@pytest.mark.parametrize("kind", ["resnet", "bert"])
def test_all_of_a_model_can_be_trained(kit: Any, kind: str, tmp_path: Path) -> None:
    made = compile_training(
        kit.seeded(kind), kit.lesson(kind), Scheme(whole="all"), Optimiser(kind="momentum"), tmp_path / "a"
    )
    assert TrainingSession(made).verified.weight_error < 1e-5


def test_lion_does_what_its_paper_says(kit: Any, tmp_path: Path) -> None:
    optimiser = Optimiser(kind="lion", rate=1e-4, beta2=0.99)
    made = compile_training(kit.seeded("bert"), kit.lesson("bert"), SPARSE["bert"], optimiser, tmp_path / "a")
    assert TrainingSession(made).verified.weight_error < 1e-5


def test_key_biases_stay_and_are_named(kit: Any, tmp_path: Path) -> None:
    made = compile_training(
        kit.seeded("bert"), kit.lesson("bert"), Scheme(biases="all", whole=1), Optimiser(), tmp_path / "a"
    )
    spec = TrainingSession(made).spec
    assert not any(one.name.endswith("key.bias") for one in spec.trained)
    assert sum("key.bias" in note for note in spec.notes) == 2
    assert torch.tensor([one.shape for one in spec.trained if one.name == "head.1.weight"]).tolist() == [[5, 32]]
