"""Whether a compiled step still computes what eager PyTorch computed: such compilers have erred silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from tierwise.artifact import TrainingStep
from tierwise.training._backend import Backend
from tierwise.training._tensor_file import Arrays

__all__ = ["LARGEST_ERROR", "Replay", "relative_error", "replay"]

LARGEST_ERROR = 1e-5
"""Of losses and of trained tensors, relative."""


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


def relative_error(got: Arrays, wanted: Arrays) -> float:
    """Euclidean norm of the difference of all tensors over that of what is wanted."""
    over = sum(float(np.sum((got[name].astype(np.float64) - wanted[name]) ** 2)) for name in wanted)
    under = sum(float(np.sum(wanted[name].astype(np.float64) ** 2)) for name in wanted)
    return float(np.sqrt(over / max(under, 1e-300)))


def replay(engine: Backend, spec: TrainingStep, vectors: Arrays) -> Replay:
    """Take the steps of ``vectors`` from the state ``engine`` has.

    Args:
        engine: With the state at the start.
        spec: What it runs.
        vectors: ``input.NAME`` [batches, ...], ``labels`` [batches, n], ``losses`` [steps], ``final.NAME``.
    """
    losses, worst = vectors["losses"], 0.0
    names = [name.removeprefix("input.") for name in vectors if name.startswith("input.")]
    for i, wanted in enumerate(losses):
        row = i % len(vectors["labels"])
        batch = {name: vectors[f"input.{name}"][row] for name in names}
        scalars = spec.optimiser.scalar_values(i + 1, spec.optimiser.rate)
        loss = engine.step(batch, vectors["labels"][row], scalars)
        worst = max(worst, abs(loss - float(wanted)) / max(abs(float(wanted)), 1e-6))
    state = engine.state()
    finals = {one.tensor: vectors[f"final.{one.name}"] for one in spec.trained}
    return Replay(len(losses), worst, relative_error(state, finals))
