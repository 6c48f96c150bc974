"""Where a picture lies on the model's canvas, and boxes from one to the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tierwise.artifact._manifest import ImageInput

__all__ = ["placed_at", "to_canvas", "to_picture"]

Floats = npt.NDArray[np.float32]


def placed_at(spec: ImageInput, height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of a picture of this size on the model's canvas."""
    if spec.fit != "letterbox":
        return 0, 0, spec.width, spec.height
    scale = min(spec.width / width, spec.height / height)
    across = min(spec.width, max(1, round(width * scale)))
    down = min(spec.height, max(1, round(height * scale)))
    return (spec.width - across) // 2, (spec.height - down) // 2, across, down


def to_canvas(boxes: Floats, spec: ImageInput, height: int, width: int) -> Floats:
    """Boxes on the model's canvas, as shares of it.

    Args:
        boxes: Left, top, right, bottom [..., 4] as shares of the picture.
        spec: The artifact's input encoding.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
    """
    offset, size = _affine(spec, height, width)
    placed: Floats = (boxes * size + offset).astype(np.float32)
    return placed


def to_picture(boxes: Floats, spec: ImageInput, height: int, width: int) -> Floats:
    """The inverse of `to_canvas`, for a client that wants a node's boxes on the picture it sent.

    Args:
        boxes: Left, top, right, bottom [..., 4] as a node answers them.
        spec: The artifact's input encoding.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Returns:
        Shares of the picture, clipped to it.
    """
    offset, size = _affine(spec, height, width)
    placed: Floats = np.clip((boxes - offset) / size, 0.0, 1.0).astype(np.float32)
    return placed


def _affine(spec: ImageInput, height: int, width: int) -> tuple[Floats, Floats]:
    left, top, across, down = placed_at(spec, height, width)
    whole = np.array([spec.width, spec.height] * 2, np.float32)
    return np.array([left, top] * 2, np.float32) / whole, np.array([across, down] * 2, np.float32) / whole
