"""From a detector's output to boxes: decoding and suppression of doubles in NumPy. Runs on a node, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.artifact._manifest import Detections, TensorSpec

__all__ = ["detect", "detections_spec", "overlaps"]

Floats = npt.NDArray[np.float32]

_CANDIDATES = 1000
"""The best so many boxes of a picture are looked at; comparing all pairs of more takes too long."""

# FastestDet ranks by objectness^0.6 * class^0.4 (its README, 2022).
_OBJECT_POWER, _CLASS_POWER = 0.6, 0.4


def detections_spec(spec: Detections) -> TensorSpec:
    """Name, type and shape of the answer."""
    return TensorSpec(name=spec.answer, dtype="FP32", shape=(-1, spec.most, 6))


def detect(spec: Detections, raw: npt.NDArray[Any]) -> Floats:
    """The boxes of every picture of a batch.

    Args:
        spec: How.
        raw: The model's output, as ``spec.layout`` says.

    Returns:
        [n, most, 6]; see `Detections`.

    Raises:
        InputError: The output does not have the layout.
    """
    made = np.zeros((len(raw), spec.most, 6), np.float32)
    made[:, :, 5] = -1
    _check(spec, raw)
    known = np.asarray(spec.classes)
    for row, one in enumerate(raw.astype(np.float32, copy=False)):
        boxes, scores, classes = _grid(one) if spec.layout == "grid" else _rows(one)
        classes = known[classes]
        wanted = np.flatnonzero((scores >= spec.least_score) & (classes >= 0))
        # Stable, so that equal scores come out in the same order on every machine.
        order = wanted[np.argsort(-scores[wanted], kind="stable")][:_CANDIDATES]
        kept = order[_suppressed(boxes[order], classes[order], spec)]
        made[row, : len(kept), :4] = boxes[kept]
        made[row, : len(kept), 4] = scores[kept]
        made[row, : len(kept), 5] = classes[kept]
    return made


def overlaps(ones: Floats, others: Floats) -> Floats:
    """Intersection over union of every box of ``ones`` [a, 4] with every box of ``others`` [b, 4], as [a, b]."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    sizes = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (ones, others)]
    shares: Floats = common / np.maximum(sizes[0][:, None] + sizes[1][None, :] - common, 1e-12)
    return shares


def _check(spec: Detections, raw: npt.NDArray[Any]) -> None:
    wanted = (4, 1, 5 + len(spec.classes)) if spec.layout == "grid" else (3, 2, 4 + len(spec.classes))
    axes, axis, size = wanted
    if raw.ndim != axes or raw.shape[axis] != size:
        shape = f"[n, {size}, rows, columns]" if spec.layout == "grid" else f"[n, boxes, {size}]"
        raise InputError(
            f"the output of a detector of {len(spec.classes)} classes must be {shape}",
            got=list(raw.shape),
            where=spec.tensor,
        )


def _grid(cells: Floats) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Boxes, scores and classes of one picture from [5 + classes, rows, columns]."""
    rows, columns = cells.shape[1:]
    values = cells.reshape(len(cells), -1)
    down, across = np.divmod(np.arange(rows * columns), columns)
    centre = np.stack([(across + np.tanh(values[1])) / columns, (down + np.tanh(values[2])) / rows], axis=1)
    half = 0.5 / (1.0 + np.exp(-values[3:5].T))
    classes = values[5:].argmax(axis=0)
    best = values[5:].max(axis=0)
    scores = np.clip(values[0], 0, 1) ** _OBJECT_POWER * np.clip(best, 0, 1) ** _CLASS_POWER
    boxes = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0.0, 1.0)
    return boxes.astype(np.float32), scores, classes


def _rows(values: Floats) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    return np.clip(values[:, :4], 0.0, 1.0), values[:, 4:].max(axis=1), values[:, 4:].argmax(axis=1)


def _suppressed(boxes: Floats, classes: npt.NDArray[np.int64], spec: Detections) -> npt.NDArray[np.int64]:
    """Places of the boxes that stay, from boxes in descending order: each drops the worse ones of its class."""
    rivals = (overlaps(boxes, boxes) > spec.most_overlap) & (classes[:, None] == classes[None, :])
    alive = np.ones(len(boxes), np.bool_)
    kept: list[int] = []
    for place in range(len(boxes)):
        if alive[place]:
            kept.append(place)
            alive &= ~rivals[place]
            if len(kept) == spec.most:
                break
    return np.array(kept, np.int64)
