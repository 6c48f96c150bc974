"""Boxes of pictures as labels of a split: as many a picture as it has, padded to one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError

__all__ = ["box_labels"]

Floats = npt.NDArray[np.float32]


def box_labels(boxes: Sequence[Floats]) -> Floats:
    """Labels of a split for detection.

    Args:
        boxes: For each picture [k, 5] or [k, 6] with any k, also 0: left, top, right, bottom as shares of the model's
            picture (`tierwise.artifact.to_canvas`), class, and 1 where the box is a crowd that is neither to be found
            nor wrong to find (COCO's ``iscrowd``).

    Returns:
        FP32 [n, most, 6], every picture's own boxes first; the rest has class -1.

    Raises:
        InputError: A box has no area, reaches out of the picture, or has a negative class.
    """
    packed = np.zeros((len(boxes), max([1, *map(len, boxes)]), 6), np.float32)
    packed[:, :, 4] = -1
    for row, own in enumerate(boxes):
        if len(own) == 0:
            continue
        corners = own[:, :4]
        good = (corners[:, 2:] > corners[:, :2]).all() and corners.min() >= 0 and corners.max() <= 1
        if not good or own[:, 4].min() < 0:
            raise InputError(
                "a box must be left, top, right, bottom in [0, 1] with an area, and a class from 0",
                got=own.tolist()[:3],
                where=f"picture {row}",
            )
        packed[row, : len(own), : own.shape[1]] = own
    return packed
