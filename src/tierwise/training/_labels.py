"""What a step is told to answer: one class for each item, or a next token for each place of its row."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.artifact import TrainingStep

__all__ = ["IGNORED", "check_labels"]

IGNORED = -100
"""The label of a place whose answer does not count, as in PyTorch's cross entropy."""


def check_labels(labels: npt.NDArray[Any], spec: TrainingStep) -> None:
    """Refuse labels that the step cannot be told.

    Args:
        labels: [n], or [n, length] for tokens, where `IGNORED` may stand.
        spec: The step.

    Raises:
        InputError: Another shape, a label that is no class, or not one that counts.
    """
    if labels.shape != (spec.batch, *spec.label_shape):
        raise InputError(
            f"labels must have the shape {[spec.batch, *spec.label_shape]}", got=list(labels.shape), where="labels"
        )
    counted = labels[labels != IGNORED] if spec.label_shape else labels
    if counted.size == 0:
        raise InputError("at least one label must count", got=f"only {IGNORED}", where="labels")
    if counted.min() < 0 or counted.max() >= spec.classes:
        raise InputError(
            f"labels must be in [0, {spec.classes})" + (f" or {IGNORED}" if spec.label_shape else ""),
            got=f"{counted.min()} to {counted.max()}",
            where="labels",
        )
