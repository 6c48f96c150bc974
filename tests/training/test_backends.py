"""Every backend does what eager PyTorch does, and an artifact says what a machine must have to run its machine code."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tierwise._errors import UnavailableError
from tierwise.artifact import Artifact, Optimiser, open_artifact
from tierwise.training import Scheme, TrainingSession, misfit, plan_of, training_step_of
from tierwise.training._tensor_file import read_tensors
from tierwise.training.compiler import capture_step, compile_training, divide, read_model, relay, resolve, simplify
from tierwise.training.compiler._kernels import bias_apart
from tierwise.training.compiler._trial import tried

RATES = {"sgd": 0.01, "momentum": 0.01, "adam": 1e-3}
SPARSE = {
    "resnet": Scheme(biases=6, whole=1, weights={"blocks.1.layers.1.conv": 0.5}),
    "mobilenet": Scheme(biases=9, whole=1, weights={"blocks.15.expand.conv": 1.0}),
    "bert": Scheme(biases=6, whole=1),
}
slow_compiler = pytest.mark.timeout(1200)  # half a minute alone; on a busy core the C++ compiler takes many
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="AOTInductor needs a C++ compiler"
)


def _step(kit: Any, kind: str, scheme: Scheme, optimiser: Optimiser) -> Any:
    inputs, labels = kit.batches(kind, 2)[0]
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    model = read_model(kit.seeded(kind), tensors)
    joint = capture_step(model, resolve(scheme, model), optimiser, tuple(tensors.values()), torch.from_numpy(labels))
    simplify(joint.graph)
    return divide(joint)[1]


def _values(part: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    made = []
    for node in part.graph.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            floats = value.dtype == torch.float32
            made.append(torch.rand(value.shape) if floats else torch.zeros(value.shape, dtype=value.dtype))
    return made


@pytest.mark.parametrize(("kind", "scheme"), [("resnet", "full"), ("mobilenet", "sparse"), ("bert", "sparse")])
def test_a_relaid_step_computes_the_same(kit: Any, kind: str, scheme: str) -> None:
    part = _step(kit, kind, SPARSE[kind] if scheme == "sparse" else Scheme(whole="all"), Optimiser(kind="adam"))
    again = relay(part)
    assert (again.inputs, again.outputs) == (part.inputs, part.outputs)
    given = _values(part)
    with torch.no_grad():
        for wanted, got in zip(part.graph(*given), again.graph(*given), strict=True):
            torch.testing.assert_close(got, wanted, rtol=2e-4, atol=1e-5)


def test_a_relaid_mobilenet_has_no_convolution_of_one_pixel_left(kit: Any) -> None:
    part = _step(kit, "mobilenet", SPARSE["mobilenet"], Optimiser())
    convolution = torch.ops.aten.convolution.default
    assert any(node.target is convolution for node in part.graph.graph.nodes)
    assert not any(node.target is convolution for node in relay(part).graph.graph.nodes)


def test_trained_biases_leave_depthwise_convolutions_constant(kit: Any) -> None:
    part = _step(kit, "mobilenet", SPARSE["mobilenet"], Optimiser())
    given = _values(part)
    with torch.no_grad():
        before = part.graph(*given)
        assert bias_apart(part.graph) == 2
        assert bias_apart(part.graph) == 0
        for wanted, got in zip(before, part.graph(*given), strict=True):
            torch.testing.assert_close(got, wanted)


def busy(cpu_s: float) -> None:
    end_s = time.process_time() + cpu_s
    while time.process_time() < end_s:
        pass


@pytest.mark.parametrize(("eager_s", "told"), [(1e-6, True), (0.1, False)])
def test_a_step_slower_than_eager_pytorch_says_so(small: Artifact, eager_s: float, told: bool) -> None:
    spec = training_step_of(small)
    files: dict[str, bytes | Path] = {name: small.path(name).read_bytes() for name in spec.files}
    start = {name: torch.from_numpy(array) for name, array in read_tensors(small.path(spec.state))[0].items()}
    vectors, _ = read_tensors(small.path(spec.vectors))
    found, _ = tried(spec, files, start, vectors, [], "onnxruntime", partial(busy, eager_s), lambda: 0.0)
    assert any("slower than eager PyTorch" in note for note in found.notes[len(spec.notes) :]) == told
    assert found.plan.eager_step_s >= eager_s
    assert "in eager PyTorch" in plan_of(small)


@pytest.fixture(scope="module")
def packaged(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("packaged") / "a"
    how = Optimiser(kind="adam", rate=1e-3)
    return compile_training(
        kit.seeded("resnet"), kit.lesson("resnet"), Scheme(biases=3, whole=1), how, folder, backend="hybrid"
    )


@slow_compiler
@needs_compiler
def test_twenty_packaged_steps_are_those_of_eager_pytorch(packaged: Artifact) -> None:
    session = TrainingSession(packaged)
    assert session.backend == "hybrid"
    assert session.verified.steps == 20
    assert session.verified.loss_error < 1e-5
    assert session.verified.weight_error < 1e-5
    assert any(note.startswith("backend hybrid, as asked; median step") for note in session.spec.notes)


@slow_compiler
@needs_compiler
def test_a_checkpoint_goes_from_one_backend_to_the_other(kit: Any, packaged: Artifact, tmp_path: Path) -> None:
    inputs, labels = kit.batches("resnet", 2)[0]
    first, second = TrainingSession(packaged), TrainingSession(packaged, backend="onnxruntime")
    for _ in range(3):
        first.step(inputs, labels)
    before = first.predict(inputs)
    first.save(tmp_path / "c")
    second.resume(tmp_path / "c")
    np.testing.assert_allclose(second.predict(inputs), before, rtol=1e-5, atol=1e-6)
    assert second.step(inputs, labels) == pytest.approx(first.step(inputs, labels), rel=1e-5)
    assert not np.allclose(first.predict(inputs), before)


@slow_compiler
@needs_compiler
def test_another_processor_takes_the_onnx_step_and_says_why(packaged: Artifact) -> None:
    spec = packaged.manifest.training
    assert misfit(spec) is None
    elsewhere = msgspec.structs.replace(spec, packaged=msgspec.structs.replace(spec.packaged, processor="another"))
    assert "compiled for another" in str(misfit(elsewhere))
    older = msgspec.structs.replace(spec, packaged=msgspec.structs.replace(spec.packaged, torch="1.0"))
    assert "torch 1.0" in str(misfit(older))


@slow_compiler
@needs_compiler
def test_without_torch_the_onnx_step_runs(packaged: Artifact) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from tierwise.artifact import open_artifact\n"
        "from tierwise.training import TrainingSession\n"
        "from tierwise._errors import UnavailableError\n"
        "made = open_artifact(Path(sys.argv[1]))\n"
        "print(TrainingSession(made).backend)\n"
        "try: TrainingSession(made, backend='hybrid')\n"
        "except UnavailableError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, packaged.directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("onnxruntime\n")
    assert "torch is not installed" in done.stdout
    assert "--backend onnxruntime" in done.stdout


def test_an_artifact_without_machine_code_cannot_run_it(small: Artifact) -> None:
    assert TrainingSession(open_artifact(small.directory)).backend == "onnxruntime"
    with pytest.raises(UnavailableError, match="holds no packaged step"):
        TrainingSession(small, backend="aotinductor")
