"""Low-rank adapters: alone trained, nothing changed at the start, and part of plain weights in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tierwise._errors import InputError, SpecError
from tierwise.artifact import Artifact, Optimiser
from tierwise.training import LoRA, Scheme, TrainingSession, merge, read_scheme, read_tensors
from tierwise.training.compiler import adapt, compile_training, read_model, resolve

LORA = {"*.query": LoRA(rank=4, alpha=8), "blocks.1.feed.*": LoRA(rank=2)}


@pytest.fixture(scope="module")
def adapted(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("lora") / "artifact"
    optimiser = Optimiser(kind="adam", rate=1e-3)
    return compile_training(kit.seeded("decoder"), kit.lesson("decoder"), Scheme(lora=LORA), optimiser, folder)


def test_adapters_alone_are_trained_and_equal_eager_pytorch(adapted: Artifact) -> None:
    session = TrainingSession(adapted)
    assert session.verified.loss_error < 1e-5
    assert session.verified.weight_error < 1e-5
    names = {one.name.rpartition(".")[0] for one in session.spec.trained}
    assert names == {
        "blocks.0.attention.query", "blocks.1.attention.query",
        "blocks.1.feed.gate", "blocks.1.feed.up", "blocks.1.feed.down",
    }  # fmt: skip
    assert {one.name.rpartition(".")[2] for one in session.spec.trained} == {"lora_a", "lora_b"}
    assert [one.scale for one in session.spec.adapters] == [2.0, 2.0, 1.0, 1.0, 1.0]


def test_the_model_begins_unchanged_and_merges_into_plain_weights(kit: Any, adapted: Artifact, tmp_path: Path) -> None:
    session, model = TrainingSession(adapted), kit.seeded("decoder")
    inputs, labels = kit.batches("decoder", 2)[0]
    tokens = torch.from_numpy(inputs["tokens"])
    with torch.no_grad():
        before = model(tokens).numpy()
    np.testing.assert_allclose(session.predict(inputs), before, rtol=1e-5, atol=1e-6)
    for _ in range(10):
        session.step(inputs, labels, rate=0.02)
    learnt = session.predict(inputs)
    assert np.abs(learnt - before).max() > 0.01
    plain = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    merged = session.merged(plain)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in merged.items()})
    with torch.no_grad():
        np.testing.assert_allclose(model(tokens).numpy(), learnt, rtol=1e-4, atol=1e-5)
    session.export_delta(tmp_path / "delta.safetensors")
    again = merge(session.spec, plain, read_tensors(tmp_path / "delta.safetensors")[0])
    assert all(np.array_equal(again[name], merged[name]) for name in merged)


def test_weights_that_do_not_fit_are_told(adapted: Artifact, small: Artifact, kit: Any) -> None:
    session = TrainingSession(adapted)
    plain = {name: tensor.numpy() for name, tensor in kit.seeded("decoder").state_dict().items()}
    with pytest.raises(InputError, match=r"must hold this one with shape \[32, 32\], but got none"):
        session.merged({name: array for name, array in plain.items() if "query" not in name})
    with pytest.raises(InputError, match="only a step that trains adapters alone"):
        TrainingSession(small).merged({})
    with pytest.raises(InputError, match="must hold every adapter"):
        merge(session.spec, plain, {})


def test_patterns_that_do_not_fit_are_told(kit: Any) -> None:
    inputs = {"tokens": torch.from_numpy(kit.batches("decoder", 2)[0][0]["tokens"])}
    model = read_model(kit.seeded("decoder"), inputs)
    with pytest.raises(SpecError, match="must fit a linear layer"):
        adapt(model, {"*.nothing": LoRA(rank=2)})
    with pytest.raises(SpecError, match="a rank must be at most 32"):
        adapt(model, {"*.query": LoRA(rank=33)})
    with pytest.raises(SpecError, match="used in one place"):
        adapt(model, {"*": LoRA(rank=2)} | {"embedding": LoRA(rank=2)})
    both = Scheme(whole="all", lora=LORA)
    with pytest.raises(SpecError, match="a weight with an adapter must stay frozen"):
        resolve(both, adapt(model, both.lora))
    assert read_scheme("lora-8") == Scheme(lora={"*": LoRA(rank=8)})


def test_adapters_beside_a_head_that_is_trained_whole(kit: Any, tmp_path: Path) -> None:
    scheme = Scheme(whole=1, lora={"encoder.*.query": LoRA(rank=2), "encoder.*.value": LoRA(rank=2)})
    made = compile_training(kit.seeded("bert"), kit.lesson("bert"), scheme, Optimiser(kind="momentum"), tmp_path / "a")
    session = TrainingSession(made)
    assert session.verified.weight_error < 1e-5
    assert sum(".lora_" in one.name for one in session.spec.trained) == 8
    assert any(one.name == "head.1.weight" for one in session.spec.trained)
