"""Chains of operators that train, end to end on digits."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tierwise.measure import Silent
from tierwise.operators import Distill, Partition, Prune, StaticPTQ, build, chain_text
from tierwise.operators._store import load_stage
from tierwise.tasks import BuiltinTask, Training, fine_tune, load_task

BRIEF = Training(epochs=2, batch=64, learning_rate=1e-3, precision="float32")
PRUNE = Prune(steps=2, training=BRIEF)
RECOVER = Distill(training=BRIEF)
STUDENT = Distill(training=Training(epochs=6, batch=64, learning_rate=4e-3, precision="float32"))


@pytest.mark.parametrize(
    ("chain", "accurate", "share"),
    [
        ((PRUNE, RECOVER), 0.93, 0.5),
        ((PRUNE, StaticPTQ()), 0.9, 0.5),
        ((STUDENT, StaticPTQ()), 0.9, 0.3),
        ((STUDENT, StaticPTQ(), Partition(cut="blocks.1")), 0.9, 0.3),
        ((PRUNE, RECOVER, StaticPTQ()), 0.9, 0.5),
    ],
    ids=lambda value: chain_text(value) if isinstance(value, tuple) else "",
)
def test_chains_end_to_end(digits, built, accuracy, chain, accurate, share):
    artifact = build(digits, chain, built)
    manifest = artifact.manifest
    assert manifest.provenance.chain == chain_text(chain)
    assert len(manifest.provenance.specs) == len(chain)
    assert len(manifest.segments) == (2 if isinstance(chain[-1], Partition) else 1)
    assert accuracy(artifact) >= accurate
    assert sum(segment.macs for segment in manifest.segments) <= share * 763520
    assert (manifest.coverage is not None) == any(isinstance(spec, StaticPTQ) for spec in chain)
    assert len(manifest.provenance.notes) >= len(chain)


def test_shared_prefixes_are_trained_once_and_read_back(few_digits, tmp_path, stops):
    seen = stops()
    build(few_digits, (PRUNE, StaticPTQ()), tmp_path, seen)
    assert [title for title in seen.steps if title.startswith("prune")] == [
        "prune digits, step 1 of 2",
        "prune digits, step 2 of 2",
    ]
    again = stops()
    build(few_digits, (PRUNE, RECOVER), tmp_path, again)
    assert not any(title.startswith(("prune", "search")) for title in again.steps)
    assert "distil digits" in again.steps
    # The pruned module comes back as it was: architecture from plain data, weights from safetensors.
    works = [load_stage(folder, few_digits) for folder in (tmp_path / "stages").iterdir()]
    (pruned,) = (work for work in works if [spec.NAME for spec in work.history] == ["prune"])
    module = pruned.module(Silent())
    spec = pruned.history[0]
    assert module.stem.conv.out_channels == spec.widths["stem.conv"]
    from tierwise.capture import run

    feeds = few_digits.tensors(few_digits.splits["test"].items[:50])
    with torch.inference_mode():
        answer = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
    assert abs(answer - run([pruned.model], feeds)["logits"]).max() < 1e-3
    assert not list((tmp_path / "training").iterdir())


def kept(cache):
    return [path.read_bytes() for path in sorted((cache / "stages").glob("*/module.safetensors"))]


def test_a_stopped_chain_goes_on_in_the_middle_and_reaches_the_same(few_digits, tmp_path, stops):
    chain = (PRUNE, RECOVER)
    whole = build(few_digits, chain, tmp_path / "whole")
    cut = tmp_path / "cut"
    # Within the first epoch of the second step, then within the second epoch of the distillation.
    for title, steps in (("prune digits, step 2", 2), ("distil", 6)):
        with pytest.raises(KeyboardInterrupt):
            build(few_digits, chain, cut, stops(steps, title))
    seen = stops()
    resumed = build(few_digits, chain, cut, seen)
    assert not any(title.startswith(("prune", "search")) for title in seen.steps)
    assert resumed.manifest.provenance.specs == whole.manifest.provenance.specs
    assert resumed.path("model.onnx").read_bytes() == whole.path("model.onnx").read_bytes()
    assert kept(cut) == kept(tmp_path / "whole")
    assert resumed.manifest.provenance.training_s > 0


def a_long_step(cache):
    """A chain whose training takes a second or two."""
    subject = Training(epochs=1, batch=64, precision="float32")
    task = load_task(BuiltinTask(name="digits", training=subject, train_items=256), cache, threads=1)
    return build(task, (Prune(steps=1, training=Training(epochs=16, batch=64, precision="float32")),), cache)


def test_a_killed_process_leaves_what_the_next_needs(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_chains import a_long_step; a_long_step(Path(sys.argv[2]))"
    )
    arguments = [str(Path(__file__).parent), str(tmp_path / "killed")]
    states = "training/*/step1/training.safetensors"
    killed = subprocess.Popen([sys.executable, "-c", code, *arguments])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob(states)):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list((tmp_path / "killed").glob(states))
    for name in ("killed", "whole"):
        a_long_step(tmp_path / name)
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")


def test_fine_tuning_goes_on_from_given_weights_and_tells_what_it_cost(digits, tmp_path):
    net = copy.deepcopy(digits.model(Silent()))
    seen = []
    tuned = fine_tune(
        net,
        digits,
        BRIEF,
        folder=tmp_path,
        progress=Silent(),
        before_epoch=lambda epoch, module: seen.append((epoch, module is net)),
    )
    assert seen == [(0, True), (1, True)]
    assert tuned.module is net
    assert not net.training
    assert max(tuned.history) > 0.95
    again = fine_tune(copy.deepcopy(digits.model(Silent())), digits, BRIEF, folder=tmp_path, progress=Silent())
    assert (again.history, again.training_s) == (tuned.history, tuned.training_s)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.module.parameters(), strict=True))
