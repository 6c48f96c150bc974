"""What a classifier says of items that it did not learn from, and the threshold that keeps its recall on those too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tierwise.operators._exit_head import Array
from tierwise.operators._filtering import Flags, Floats, least_confidence

__all__ = ["Layers", "held_out", "logits", "margin"]

Layers = list[tuple[Array, Array]]


def logits(layers: Layers, features: Floats) -> Floats:
    """How sure a filter's classifier is that views hold nothing, as logits [n]; its class 0 is nothing."""
    (first, first_bias), (second, second_bias) = layers
    scores = np.maximum(features @ first + first_bias, 0) @ second + second_bias
    sure: Floats = scores[:, 0] - scores[:, 1]
    return sure


def held_out(
    features: Floats,
    held: Flags,
    items: npt.NDArray[np.int64],
    *,
    folds: int,
    learn: Callable[[Floats, Flags], Layers],
) -> Floats:
    """`logits` of each view from a classifier that learnt from the other folds (cross-fitting).

    A fold is a run of neighbouring items, because frames of one video stand together: of most videos, then, it has seen
    no frame.

    Args:
        features: Of each view, [n, f].
        held: Whether it holds something, [n].
        items: Which item it is of, [n]; views of one item share a fold.
        folds: How many, at least 2.
        learn: Gives a classifier's layers from features and what they hold.
    """
    found = np.empty(len(held), np.float32)
    for own in np.array_split(np.unique(items), folds):
        out = np.isin(items, own)
        if out.any():
            found[out] = logits(learn(features[~out], held[~out]), features[out])
    return found


def margin(other: tuple[Floats, Flags], judged: tuple[Floats, Flags], least_recall: float) -> float:
    """How much higher the threshold must be for ``least_recall`` on both sets of views than on the second alone.

    Args:
        other: `held_out` of the train split, and which views hold something.
        judged: The same of the validation split. The model itself has seen the train split and may know it too well:
            so this one's threshold is never lowered.
        least_recall: In (0, 1].
    """
    both = [np.concatenate(pair) for pair in zip(other, judged, strict=True)]
    alone, together = (least_confidence(found, held, least_recall) for found, held in (judged, both))
    return max(0.0, together - alone)
