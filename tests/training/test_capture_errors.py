"""A model that cannot be compiled is told by operator and line, in one error, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tierwise._errors import InputError
from tierwise.artifact import Optimiser
from tierwise.training import Scheme, TrainingSession
from tierwise.training.compiler import compile_training


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 5)


class Branches(Net):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.first(input)
        if x.sum() > 0:
            x = x * 2
        return self.last(x)


class Bessel(Net):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = torch.special.bessel_j0(input)
        return self.last(self.first(x))


class Running(Net):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = torch.cummax(self.first(input), 1).values
        return self.last(x)


class Splits(Net):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        left, right = self.first(input).chunk(2, dim=-1)
        a, b = torch.stack([left, right]).unbind(0)
        c, d, _ = torch.split(a * b, [1, 2, 1], dim=1)
        return self.last(torch.cat([left, c, d, right[:, :1]], 1))


def _compiled(kit: Any, module: nn.Module, folder: Path) -> Any:
    rng = np.random.default_rng(0)
    batches = [({"input": rng.standard_normal((2, 8)).astype(np.float32)}, rng.integers(0, 5, 2)) for _ in range(2)]
    lesson = replace(kit.lesson("resnet"), batches=batches)
    return compile_training(module.eval(), lesson, Scheme(whole="all"), Optimiser(), folder)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Branches, ["if x.sum() > 0:", "control flow"]),
        (Bessel, ["torch.special.bessel_j0(input)", "aten.special_bessel_j0", "no ONNX form"]),
        (Running, ["torch.cummax(self.first(input), 1)", "aten.cummax"]),
    ],
)
def test_the_operator_and_the_line_are_told(kit: Any, model: type[Net], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _compiled(kit, model(), tmp_path / "a")
    for word in [*words, f"{Path(__file__).name}:"]:
        assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_operators_that_answer_several_tensors_are_captured(kit: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Splits()
    session = TrainingSession(_compiled(kit, module, tmp_path / "a"))
    assert session.verified.weight_error < 1e-5
    with torch.no_grad():
        wanted = module(torch.ones(3, 8)).numpy()
    np.testing.assert_allclose(session.predict({"input": np.ones((3, 8), np.float32)}), wanted, rtol=1e-5, atol=1e-6)
