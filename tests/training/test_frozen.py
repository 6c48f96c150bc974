"""Frozen weights beside the graphs: in one file, each once, read where they lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from tierwise._errors import ArtifactError
from tierwise.artifact import Artifact, Optimiser, write_artifact
from tierwise.training import Scheme, TrainingSession, read_tensors, training_step_of
from tierwise.training._frozen import Frozen
from tierwise.training.compiler import compile_training


@pytest.fixture(scope="module")
def made(kit: Any, tmp_path_factory: Any) -> Artifact:
    folder = tmp_path_factory.mktemp("frozen") / "a"
    scheme = Scheme(biases=6, whole=1)
    artifact: Artifact = compile_training(kit.seeded("bert"), kit.lesson("bert", 4), scheme, Optimiser(), folder)
    return artifact


def graphs(made: Artifact) -> list[Path]:
    spec = training_step_of(made)
    assert spec.prefix is not None
    assert spec.predictor is not None
    return [made.path(name) for name in (spec.prefix, spec.step, spec.predictor)]


def test_every_weight_lies_in_the_file_once_and_in_no_graph(made: Artifact) -> None:
    spec = training_step_of(made)
    assert spec.frozen is not None
    named: list[str] = []
    for path in graphs(made):
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            assert len(tensor.raw_data) < 1024
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                named.append(tensor.name)
    weights, _ = read_tensors(made.path(spec.frozen))
    assert set(named) == set(weights)
    assert len(named) > len(weights)  # some stand in two graphs
    whole = onnx.load(str(made.path(made.manifest.segments[0].file)))
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in whole.graph.initializer)


def test_mapped_weights_are_those_of_the_file_also_when_they_were_dropped(made: Artifact) -> None:
    spec = training_step_of(made)
    assert spec.frozen is not None
    weights, _ = read_tensors(made.path(spec.frozen))
    mapped = Frozen(made.path(spec.frozen))
    for _ in range(2):
        for name, tensor in weights.items():
            np.testing.assert_array_equal(mapped.values[name].numpy(), tensor, strict=True)
        mapped.release()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\x08\0\0\0\0\0\0\0no json!", b"\x02\0\0\0\0\0\0\0[]"):
        path = tmp_path / "frozen.safetensors"
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="safetensors"):
            Frozen(path)


def test_lean_predictions_are_those_of_the_whole_model(made: Artifact, kit: Any) -> None:
    whole, lean = TrainingSession(made), TrainingSession(made, lean=True)
    inputs, labels = kit.batches("bert", 4)[0]
    for _ in range(2):
        np.testing.assert_allclose(lean.predict(inputs), whole.predict(inputs), rtol=1e-4, atol=1e-5)
        for session in (whole, lean):
            session.step(inputs, labels, 0.1)


def test_an_artifact_with_its_weights_inside_its_graphs_trains_as_before(
    made: Artifact, kit: Any, tmp_path: Path
) -> None:
    spec = training_step_of(made)
    files: dict[str, bytes | Path] = {one.name: made.path(one.name) for one in made.manifest.files}
    for path in graphs(made)[:2]:
        files[path.name] = onnx.load(str(path)).SerializeToString()
    for gone in (spec.frozen, spec.predictor):
        files.pop(str(gone))
    old = msgspec.structs.replace(spec, frozen=None, predictor=None)
    manifest = msgspec.structs.replace(made.manifest, training=old, files=())
    inside = TrainingSession(write_artifact(tmp_path / "old", manifest, files), lean=True)
    apart = TrainingSession(made, lean=True)
    inputs, labels = kit.batches("bert", 4)[0]
    for _ in range(3):
        assert inside.step(inputs, labels) == pytest.approx(apart.step(inputs, labels), rel=1e-5)
    np.testing.assert_allclose(inside.predict(inputs), apart.predict(inputs), rtol=1e-4, atol=1e-5)


def test_a_process_that_trains_brings_no_grpc() -> None:
    code = (
        "import sys, tierwise.training; sys.exit(int(any(name in sys.modules for name in ('grpc', 'torch', 'onnx'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
