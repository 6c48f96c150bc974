"""Digits, learnt well enough in seconds that losing some accuracy shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from tierwise.artifact import Artifact
from tierwise.capture import run
from tierwise.measure import Advance
from tierwise.tasks import BuiltinTask, Task, Training, load_task, score

LEARNT = Training(epochs=10, batch=64, learning_rate=4e-3, precision="float32")
"""How the digits are learnt: 0.3 seconds an epoch."""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder: Path = tmp_path_factory.mktemp("digits")
    return load_task(BuiltinTask(name="digits", training=LEARNT), folder, threads=1)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A fifth of the digits, learnt for one epoch: for what does not depend on how well."""
    folder: Path = tmp_path_factory.mktemp("few")
    brief = Training(epochs=1, batch=64, precision="float32")
    return load_task(BuiltinTask(name="digits", training=brief, train_items=256), folder, threads=1)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that tests share."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="session")
def accuracy(digits: Task) -> Callable[[Artifact], float]:
    def measured(artifact: Artifact) -> float:
        split = digits.splits["test"]
        parts = [onnx.load(artifact.path(segment.file)) for segment in artifact.manifest.segments]
        logits: np.ndarray = run(parts, digits.tensors(split.items))["logits"]
        return score("accuracy", logits, split.labels)

    return measured


class Stops:
    """A progress that ends the process's work in the middle of a training, and counts what was trained."""

    def __init__(self, after: int | None = None, title: str = "") -> None:
        self.left, self.title = after, title
        self.steps: dict[str, int] = {}

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        self.steps.setdefault(title, 0)

        def advance(count: int) -> None:
            self.steps[title] += count
            if self.left is not None and title.startswith(self.title) and total is not None:
                self.left -= count
                if self.left < 0:
                    raise KeyboardInterrupt

        yield advance

    def say(self, line: str) -> None:
        pass


@pytest.fixture(scope="session")
def stops() -> type[Stops]:
    return Stops
