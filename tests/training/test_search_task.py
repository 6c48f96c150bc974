"""The search from a task to a file that the compiler takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tierwise._errors import InputError, SpecError, TierwiseError
from tierwise.artifact import Optimiser, TensorInput, TensorSpec
from tierwise.cli._train import command
from tierwise.tasks import Split, Task
from tierwise.training import read_scheme, training_step_of
from tierwise.training.compiler import compile_task
from tierwise.training.search import Budget, Probe, search_task, write_scheme

HOW = Optimiser(kind="momentum", rate=1e-3)
PROBE = Probe(steps=4, batch=4, held=10)


@pytest.fixture
def task(kit: Any) -> Task:
    """The small residual net, on random pictures of random classes."""
    rng = np.random.default_rng(1)

    def split(count: int) -> Split:
        items = [{"input": rng.standard_normal((3, 13, 13)).astype(np.float32)} for _ in range(count)]
        return Split(items, rng.integers(0, 5, count))

    encoding = TensorInput(tensors=(TensorSpec(name="input", dtype="FP32", shape=(-1, 3, 13, 13)),))
    # No test split: a search that reads one fails.
    splits = {"train": split(16), "calibration": split(4), "validation": split(12)}
    labels = tuple(f"c{i}" for i in range(5))
    return Task("small", encoding, labels, splits, lambda progress: kit.seeded("resnet"), fingerprint="f")


def test_search_of_a_task_ends_in_a_scheme_that_compiles(task: Task, tmp_path: Path) -> None:
    budget = Budget(bytes=60_000)
    layers, ratios = ["blocks.2.layers.0.conv"], [0.25, 1.0]
    found = search_task(task, budget, HOW, 2, tmp_path, probe=PROBE, layers=layers, ratios=ratios)
    best = found.outcome.exact
    assert best.captured_bytes <= budget.bytes
    assert found.outcome.gap >= 0
    # The best of each depth was trained; the one of the most gain is among them.
    assert all(one.found.captured_bytes <= budget.bytes for one in found.tried)
    assert len({one.found.scheme.biases for one in found.tried}) == len(found.tried) >= 2
    assert max(one.found.gain for one in found.tried) == pytest.approx(best.gain)
    assert found.best.accuracy == max(one.accuracy for one in found.tried)
    write_scheme(tmp_path / "s.toml", best.scheme)
    made = compile_task(task, read_scheme(str(tmp_path / "s.toml")), HOW, 2, tmp_path / "a", most_bytes=budget.bytes)
    assert len(training_step_of(made).trained) >= 2
    # Another budget measures nothing anew.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "schemes").iterdir()}
    tight = Budget(bytes=least_bytes(found.table))
    smaller = search_task(task, tight, HOW, 2, tmp_path, probe=PROBE, layers=layers, ratios=ratios)
    assert smaller.outcome.exact.captured_bytes <= tight.bytes
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())


def least_bytes(table: Any) -> int:
    return min(max(d.step_peak_bytes, d.prefix_peak_bytes) + d.state_bytes for d in table.depths)


def test_budget_that_fits_nothing_is_refused_before_any_training(task: Task, tmp_path: Path) -> None:
    layers = ["blocks.2.layers.0.conv"]
    with pytest.raises(InputError, match=r"--memory.*classifier alone"):
        search_task(task, Budget(bytes=100), HOW, 2, tmp_path, probe=PROBE, layers=layers, ratios=[1.0])
    few = task.splits["train"].head(3)
    with pytest.raises(InputError, match="a batch of 4 items"):
        search_task(task, Budget(bytes=10**6), HOW, 2, tmp_path, probe=PROBE, layers=layers, ratios=[1.0], learnt=few)


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["digits", "--memory", "64", "-o", "s.toml"], InputError, "a size must be a number and one of the units"),
        (["digits", "--memory", "64MB", "-o", "s.json"], InputError, r"must end in \.toml"),
        (["digit", "--memory", "64MB", "-o", "s.toml"], SpecError, "digit"),
    ],
)
def test_bad_input_is_one_clear_error(words: list[str], kind: type[TierwiseError], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["search", *words, "--cache", str(tmp_path / "cache")])
    assert isinstance(result.exception, kind)
    with pytest.raises(kind, match=said):
        raise result.exception
    assert not (tmp_path / "cache").exists()


def test_seconds_and_memory_are_checked_by_the_command_line() -> None:
    assert "Missing option '--memory'" in CliRunner().invoke(command, ["search", "digits", "-o", "s.toml"]).output
    words = ["search", "digits", "--memory", "1MB", "--seconds", "0", "-o", "s.toml"]
    assert "--seconds" in CliRunner().invoke(command, words).output
