"""Whether a compiled step still computes what eager PyTorch computed: such compilers have erred silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise.artifact import TrainingStep
from tierwise.training._backend import Backend

__all__ = ["LARGEST_ERROR", "Replay", "relative_error", "replay"]

LARGEST_ERROR = 1e-5
"""Of losses and of trained tensors, relative."""

_PIECE = 1 << 16


@final
@dataclass(frozen=True)
class Replay:
    """How far a replay was from the stored values.

    Attributes:
        steps: Steps taken.
        loss_error: Largest relative difference of a loss.
        weight_error: See `relative_error`, after the last step.
    """

    steps: int
    loss_error: float
    weight_error: float

    @property
    def equal(self) -> bool:
        """Whether both are within `LARGEST_ERROR` (not so where one is not a number)."""
        return self.loss_error <= LARGEST_ERROR and self.weight_error <= LARGEST_ERROR


def relative_error(got: Mapping[str, npt.NDArray[Any]], wanted: Mapping[str, npt.NDArray[Any]]) -> float:
    """Euclidean norm of the difference of all tensors over that of what is wanted; one of them is read at a time."""
    return _relative((got[name], wanted[name]) for name in wanted)


def _relative(pairs: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> float:
    over = under = 0.0
    for got, wanted in pairs:
        difference, size = _squares(got, wanted)
        over, under = over + difference, under + size
    return float(np.sqrt(over / max(under, 1e-300)))


def _squares(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> tuple[float, float]:
    """Sums of the squared difference and of what is wanted, in double precision, a piece at a time."""
    if got.shape != wanted.shape:
        return float("nan"), 0.0
    mine, theirs, over, under = got.reshape(-1), wanted.reshape(-1), 0.0, 0.0
    for first in range(0, len(mine), _PIECE):
        piece = theirs[first : first + _PIECE].astype(np.float64)
        over += float(np.sum((mine[first : first + _PIECE] - piece) ** 2))
        under += float(np.sum(piece**2))
    return over, under


def replay(engine: Backend, spec: TrainingStep, vectors: Mapping[str, npt.NDArray[Any]]) -> Replay:
    """Take the steps of ``vectors`` from the state ``engine`` has.

    Args:
        engine: With the state at the start.
        spec: What it runs.
        vectors: ``input.NAME`` [batches, ...], ``labels`` [batches, n], ``losses`` [steps], ``final.NAME``.
    """
    losses, worst = vectors["losses"], 0.0
    given = {name.removeprefix("input."): vectors[name] for name in vectors if name.startswith("input.")}
    labels = vectors["labels"]
    for i, wanted in enumerate(losses):
        row = i % len(labels)
        batch = {name: array[row] for name, array in given.items()}
        scalars = spec.optimiser.scalar_values(i + 1, spec.optimiser.rate)
        loss = engine.step(batch, labels[row], scalars)
        worst = max(worst, abs(loss - float(wanted)) / max(abs(float(wanted)), 1e-6))
    made = engine.trained()
    pairs = ((made[one.tensor].numpy(), vectors[f"final.{one.name}"]) for one in spec.trained)
    return Replay(len(losses), worst, _relative(pairs))
