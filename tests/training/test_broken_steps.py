"""A step that does not compute what eager PyTorch computes is refused, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tierwise._errors import InputError
from tierwise.artifact import Optimiser, TensorInput, TensorSpec
from tierwise.training import Scheme
from tierwise.training.compiler import Lesson, _joint, compile_training

ADAM = Optimiser(kind="adam", rate=1e-3)
Update = Callable[..., tuple[torch.Tensor, tuple[torch.Tensor, ...]]]
RIGHT: Update = _joint._updated


def uncorrected(how: Any, w: Any, g: Any, slots: Any, scalars: Any) -> Any:
    return RIGHT(how, w, g, slots, [scalars[0], scalars[1] * 0 + 1])


def swapped(how: Any, w: Any, g: Any, slots: Any, scalars: Any) -> Any:
    new, kept = RIGHT(how, w, g, slots, scalars)
    return new, (kept[1], kept[0])


def another_epsilon(how: Any, w: Any, g: Any, slots: Any, scalars: Any) -> Any:
    return RIGHT(Optimiser(kind="adam", rate=how.rate, epsilon=1e-5), w, g, slots, scalars)


def without_biases(how: Any, w: Any, g: Any, slots: Any, scalars: Any) -> Any:
    return RIGHT(how, w, g * (w.ndim > 1), slots, scalars)


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.first(input)))  # type: ignore[no-any-return]


class AtAKink(nn.Module):
    """What float32 rounds to the kink of ReLU lies beyond it in float64; Adam makes a whole step of any gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.clear, self.rounded, self.head = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        near = torch.relu((1 + 1e-9 * self.rounded(input)) - 1)
        return self.head(self.clear(input) + near)  # type: ignore[no-any-return]


def compiled(make: Callable[[], nn.Module], directory: Path) -> None:
    rng = np.random.default_rng(0)
    batch = ({"input": rng.standard_normal((4, 4)).astype(np.float32)}, np.array([0, 1, 1, 0]))
    encoding = TensorInput(tensors=(TensorSpec(name="input", dtype="FP32", shape=(-1, 4)),))
    torch.manual_seed(0)
    compile_training(make(), Lesson("small", encoding, (), {}, [batch], "small"), Scheme(whole="all"), ADAM, directory)


@pytest.mark.parametrize("broken", [uncorrected, swapped, another_epsilon, without_biases])
def test_a_broken_update_is_refused(broken: Update, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(_joint, "_updated", broken)
    with pytest.raises(InputError, match=r"must do what eager PyTorch does|must stay finite") as refused:
        compiled(Smooth, tmp_path / "a")
    assert "rounding" not in str(refused.value), "eager PyTorch says the same in double precision"
    assert not (tmp_path / "a").exists()


def test_a_refusal_says_where_rounding_decides(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(_joint, "_updated", uncorrected)
    with pytest.raises(InputError, match="rounding alone can be the cause"):
        compiled(AtAKink, tmp_path / "a")


def test_a_kink_alone_is_no_reason_to_refuse(tmp_path: Path) -> None:
    compiled(AtAKink, tmp_path / "a")
    assert (tmp_path / "a").is_dir()
