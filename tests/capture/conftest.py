"""Small models, exported once per test session."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tierwise.capture import export


class Block(nn.Module):
    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=groups)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8, groups=4), Block(8))
        self.fc = nn.Linear(8, 10)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(torch.relu(self.stem(picture))).mean((2, 3)))


@pytest.fixture(scope="session")
def residual() -> onnx.ModelProto:
    torch.manual_seed(0)
    return export(Residual(), {"picture": torch.randn(2, 3, 12, 12)}, ["logits"])


@pytest.fixture(scope="session")
def picture() -> dict[str, np.ndarray]:
    return {"picture": np.random.default_rng(0).normal(size=(3, 3, 12, 12)).astype(np.float32)}


@pytest.fixture(scope="session")
def bert(tiny_bert: Callable[..., nn.Module]) -> onnx.ModelProto:
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (2, 16))
    return export(tiny_bert(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ["logits"])


@pytest.fixture(scope="session")
def text() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.ones((3, 16), dtype=np.int64)
    mask[1, 5:] = 0
    return {"input_ids": rng.integers(0, 50, (3, 16)), "attention_mask": mask}
