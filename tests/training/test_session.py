"""A session on a node: learns, answers, is killed, goes on, and hands over what it learnt."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tierwise._errors import ArtifactError, InputError
from tierwise.artifact import Artifact, Optimiser, open_artifact, write_artifact
from tierwise.runtime import Executor
from tierwise.training import Scheme, TrainingSession
from tierwise.training._tensor_file import pack, read_tensors
from tierwise.training.compiler import compile_training

_RNG = np.random.default_rng(3)
INPUTS = {"input": _RNG.standard_normal((2, 3, 13, 13)).astype(np.float32)}
LABELS = np.array([1, 3])
LOGITS = "logits"


def learnt(artifact: Artifact, steps: int) -> TrainingSession:
    session = TrainingSession(artifact)
    for _ in range(steps):
        session.step(INPUTS, LABELS)
    return session


def test_the_loss_falls_and_answers_follow(small: Artifact) -> None:
    session = TrainingSession(small)
    before = session.predict(INPUTS)
    losses = [session.step(INPUTS, LABELS, 0.01) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert (session.predict(INPUTS).argmax(1) == LABELS).all()
    assert not np.allclose(before, session.predict(INPUTS))


def test_an_untrained_session_answers_as_the_artifact_does(small: Artifact) -> None:
    many = {"input": np.concatenate([INPUTS["input"]] * 3)}
    np.testing.assert_allclose(TrainingSession(small).predict(many), Executor(small).run(many)[LOGITS], atol=1e-6)


def test_smallest_numbers_stay_what_they_are_for_the_caller(small: Artifact) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from tierwise.artifact import open_artifact;"
        "from tierwise.training import TrainingSession; session = TrainingSession(open_artifact(Path(sys.argv[1])));"
        "assert float(sys.argv[2]) * 1.0 > 0 and (np.full(64, 1e-40, np.float32) * np.float32(1)).all()"
    )
    subprocess.run([sys.executable, "-c", code, str(small.directory), "5e-324"], check=True)


def test_a_frozen_prefix_stands_alone(small: Artifact) -> None:
    spec = TrainingSession(small).spec
    assert spec.prefix is not None
    assert spec.plan.prefix_macs > 0
    assert {len(one.channels) for one in spec.trained} == {0, 2}


def test_checkpoints_bring_back_the_same_course(small: Artifact, tmp_path: Path) -> None:
    session = learnt(small, 3)
    session.save(tmp_path / "c")
    rest = [session.step(INPUTS, LABELS) for _ in range(3)]
    again = TrainingSession(small)
    again.resume(tmp_path / "c")
    assert again.steps == 3
    assert [again.step(INPUTS, LABELS) for _ in range(3)] == rest


def test_a_delta_is_the_other_model_bit_by_bit(small: Artifact, tmp_path: Path) -> None:
    session, other = learnt(small, 4), TrainingSession(small)
    session.export_delta(tmp_path / "d")
    other.apply_delta(tmp_path / "d")
    np.testing.assert_array_equal(session.predict(INPUTS), other.predict(INPUTS))
    with pytest.raises(InputError, match="must be a checkpoint"):
        other.resume(tmp_path / "d")


def test_a_step_that_differs_from_eager_is_not_run(small: Artifact, tmp_path: Path) -> None:
    spec = TrainingSession(small).spec
    vectors, _ = read_tensors(small.path(spec.vectors))
    vectors["losses"] = vectors["losses"] * (1 + 1e-4)
    files = {entry.name: small.path(entry.name).read_bytes() for entry in small.manifest.files}
    wrong = write_artifact(tmp_path / "wrong", small.manifest, {**files, spec.vectors: pack(vectors)})
    with pytest.raises(ArtifactError, match="must repeat what PyTorch did"):
        TrainingSession(wrong)


def test_wrong_batches_change_nothing(small: Artifact) -> None:
    session = TrainingSession(small)
    before = session.predict(INPUTS)
    with pytest.raises(InputError, match="must have 2 items"):
        session.step({"input": INPUTS["input"][:1]}, LABELS[:1])
    with pytest.raises(InputError, match="labels must be in"):
        session.step(INPUTS, LABELS + 5)
    with pytest.raises(InputError, match="must stay finite"):
        session.step({"input": INPUTS["input"] * np.float32(np.nan)}, LABELS)
    np.testing.assert_array_equal(before, session.predict(INPUTS))
    assert session.steps == 0


def test_too_little_memory_is_told_before_anything_is_written(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 1 kB"):
        compile_training(
            kit.seeded("resnet"), kit.lesson("resnet"), Scheme(whole=1), Optimiser(), tmp_path / "a", most_bytes=1000
        )
    assert list(tmp_path.iterdir()) == []


_CHILD = """
import sys
from pathlib import Path
import numpy as np
from tierwise.artifact import open_artifact
from tierwise.training import Feed, TrainingSession
session = TrainingSession(open_artifact(Path(sys.argv[1])))
checkpoint, last = Path(sys.argv[2]), int(sys.argv[3])
if checkpoint.exists():
    session.resume(checkpoint)
rng = np.random.default_rng(0)
x, y = rng.standard_normal((9, 3, 13, 13)).astype(np.float32), np.arange(9) % 5
feed = Feed(9, 2)
while session.steps < last:
    chosen = feed.indices(session.steps)
    session.step({"input": x[chosen]}, y[chosen])
    session.save(checkpoint)
    print(session.steps, flush=True)
assert "torch" not in sys.modules and "onnx" not in sys.modules
"""


def child(artifact: Artifact, checkpoint: Path, last: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _CHILD, str(artifact.directory), str(checkpoint), str(last)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ.copy())


def test_kills_at_any_moment_lose_nothing_that_was_saved(small: Artifact, tmp_path: Path) -> None:
    whole, killed, last = tmp_path / "whole", tmp_path / "killed", 400
    with child(small, whole, last) as process:
        process.communicate(timeout=100)
    assert process.returncode == 0
    rng, kills = random.Random(0), 0
    for _ in range(4):
        with child(small, killed, last) as process:
            assert process.stdout is not None
            shown = process.stdout.readline()
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        if shown and killed.exists():
            read_tensors(killed)  # whole, whenever the kill came
    with child(small, killed, last) as process:
        process.communicate(timeout=100)
    assert process.returncode == 0
    assert kills >= 1
    wanted, got = read_tensors(whole)[0], read_tensors(killed)[0]
    assert set(wanted) == set(got)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(tensor, got[name])


def test_the_artifact_opens_again(small: Artifact) -> None:
    assert open_artifact(small.directory).digest == small.digest
