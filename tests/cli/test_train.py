from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tierwise._errors import SpecError
from tierwise.cli._train import command
from tierwise.cli._train_task import read_task
from tierwise.tasks import BuiltinTask

TASK = """
kind = "builtin"
name = "digits"
subject = { family = "resnet", depth = 8, width = 4 }
training = { epochs = 0 }
train_items = 64
"""


def test_a_task_is_a_name_or_a_file(tmp_path: Path) -> None:
    named = read_task("digits")
    assert isinstance(named, BuiltinTask)
    assert named.name == "digits"
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    filed = read_task(str(tmp_path / "task.toml"))
    assert isinstance(filed, BuiltinTask)
    assert filed.train_items == 64
    with pytest.raises(SpecError, match="task nosuch"):
        read_task("nosuch")
    (tmp_path / "bare.toml").write_text('name = "digits"', encoding="utf-8")
    with pytest.raises(SpecError, match=r"bare\.toml.*kind"):
        read_task(str(tmp_path / "bare.toml"))


def test_compile_run_and_compare_by_hand(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    task, cache, learner = str(tmp_path / "task.toml"), str(tmp_path / "cache"), str(tmp_path / "learner")

    def run(*words: str) -> str:
        done = CliRunner().invoke(command, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    told = run("compile", task, "--scheme", "last-1", "--batch", "4", "--cache", cache, "-o", learner)
    assert "Trained: 2 tensors" in told
    steps = ("run", learner, "--task", task, "--cache", cache, "--checkpoint", str(tmp_path / "state"))
    assert "Steps: 3;" in run(*steps, "--steps", "3")
    # The checkpoint is gone on from, not begun again.
    assert "Resumed at step 3" in run(*steps, "--steps", "5", "--delta", str(tmp_path / "delta"))
    assert (tmp_path / "delta").stat().st_size > 0

    out = tmp_path / "schemes"
    told = run(
        *("compare", task, "--scheme", "last-1", "--steps", "2", "--batch", "4", "--seeds", "1"),
        *("--rate", "0.001", "--cache", cache, "-o", str(out)),
    )
    assert "last-1" in told
    assert "<!doctype html>" in (out / "report.html").read_text("utf-8")
    assert {json.loads(path.read_text("utf-8"))["seed"] for path in (out / "trials").iterdir()} == {0}
    (out / "report.html").unlink()
    run("report", str(out))
    assert (out / "report.html").exists()
