"""A small task made by hand: real pictures of a kind, and an untrained residual network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tierwise.artifact import ImageInput, TensorInput, TensorSpec
from tierwise.capture import export
from tierwise.measure import Silent
from tierwise.tasks import BuiltinTask, Split, Task, load_task


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8), Block(8))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def _split(seed: int, count: int) -> Split:
    rng = np.random.default_rng(seed)
    return Split([rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(count)], np.arange(count) % 10)


@pytest.fixture(scope="session")
def torch_task() -> Task:
    torch.manual_seed(0)
    net = Residual().eval()
    return Task(
        name="toy",
        encoding=ImageInput(
            encoding="uint8", height=12, width=12, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, tensor="x"
        ),
        labels=tuple("0123456789"),
        splits={name: _split(seed, 24) for seed, name in enumerate(("train", "calibration", "validation", "test"))},
        model=lambda progress: net,
        fingerprint="1" * 64,
    )


@pytest.fixture(scope="session")
def onnx_task(torch_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The same model, come as a file without its source."""
    path: Path = tmp_path_factory.mktemp("brought") / "model.onnx"
    onnx.save(export(Residual().eval(), torch_task.example(), torch_task.outputs), path)
    return dataclasses.replace(torch_task, name="brought", model=None, onnx=path, fingerprint="2" * 64)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The built-in task; its model is trained when it is first asked for."""
    return load_task(BuiltinTask(name="digits"), tmp_path_factory.mktemp("digits"), Silent())


@pytest.fixture(scope="session")
def hard_digits(digits: Task) -> Task:
    """Trained digits with channels of very different size inside each block; in float it is the same function."""
    assert digits.model is not None
    net = copy.deepcopy(digits.model(Silent()))
    sizes = np.random.default_rng(0)
    with torch.no_grad():
        for block in net.blocks:
            norm, following = block.layers[0].norm, block.layers[1].conv
            factor = torch.from_numpy(np.exp(sizes.uniform(0, np.log(300), norm.num_features))).float()
            norm.weight *= factor
            norm.bias *= factor
            following.weight /= factor[None, :, None, None]
    return dataclasses.replace(digits, model=lambda progress: net, fingerprint="3" * 64)


@pytest.fixture(scope="session")
def text_task(tiny_bert: Callable[..., nn.Module]) -> Task:
    """A small encoder with attention, untrained, on random tokens."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        masks = np.arange(16) < rng.integers(4, 17, (count, 1))
        return Split(
            [{"input_ids": rng.integers(0, 50, 16), "attention_mask": mask.astype(np.int64)} for mask in masks],
            np.arange(count) % 2,
        )

    torch.manual_seed(0)
    net = tiny_bert(initializer_range=0.3).eval()
    names = ("input_ids", "attention_mask")
    return Task(
        name="text",
        encoding=TensorInput(tensors=tuple(TensorSpec(name=n, dtype="INT64", shape=(-1, 16)) for n in names)),
        labels=("no", "yes"),
        splits={name: split(24) for name in ("train", "calibration", "validation", "test")},
        model=lambda progress: net,
        fingerprint="4" * 64,
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def middle() -> Callable:
    """A stand-in for the cost model: the cuts that come nearest to equal shares of the arithmetic."""

    def choose(cuts, count):
        total = cuts[0].head_macs + cuts[0].tail_macs
        wanted = [total * (i + 1) / (count + 1) for i in range(count)]
        return tuple(min(cuts, key=lambda cut: abs(cut.head_macs - share)) for share in wanted)

    return choose
