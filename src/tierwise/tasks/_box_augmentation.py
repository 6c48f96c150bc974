"""Pictures moved, zoomed and mirrored at random for the training of detectors, their boxes with them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tierwise.tasks._spec import Training

__all__ = ["with_boxes_moved"]

_ZOOM = 1.6
"""Where pictures are moved at all, they become up to so many times larger or smaller."""
_LEAST_VISIBLE = 0.3
"""A box of which less remains inside the picture is no longer to be found, nor wrong to find."""


def with_boxes_moved(
    batch: dict[str, torch.Tensor], labels: torch.Tensor, spec: Training, noise: np.random.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A batch of pictures [n, c, h, w] and their boxes [n, most, 6] changed alike.

    Args:
        batch: One input of four axes.
        labels: As `tierwise.tasks.box_labels` packs them; not changed in place.
        spec: ``shift_pixels`` moves pictures by up to this much and lets them be zoomed, ``flip`` mirrors them.
        noise: Decides.
    """
    if not (spec.shift_pixels or spec.flip):
        return batch, labels
    name, pictures = next(iter(batch.items()))
    count, _, height, width = pictures.shape
    mirrored = noise.random(count) < 0.5 if spec.flip else np.zeros(count, np.bool_)
    zoom, across, down = np.ones(count), np.zeros(count), np.zeros(count)
    if spec.shift_pixels:
        zoom = _ZOOM ** noise.uniform(-1, 1, count)
        # Shares of the picture; a zoomed one may move so far that any part of it is seen.
        reach = spec.shift_pixels / min(height, width) + np.maximum(0, zoom - 1) / 2
        across, down = noise.uniform(-1, 1, (2, count)) * reach
    sign = np.where(mirrored, -1.0, 1.0)
    # From a place in the new picture, in [-1, 1], to that in the old one.
    grid = np.zeros((count, 2, 3), np.float32)
    grid[:, 0, 0], grid[:, 0, 2] = sign / zoom, -2 * across * sign / zoom
    grid[:, 1, 1], grid[:, 1, 2] = 1 / zoom, -2 * down / zoom
    # In float32 also where the model computes in less: places would be off by pixels.
    with torch.autocast("cpu", enabled=False):
        places = nn.functional.affine_grid(torch.from_numpy(grid), list(pictures.shape), align_corners=False)
        moved = nn.functional.grid_sample(pictures, places, padding_mode="border", align_corners=False)
    return {name: moved}, _boxes_moved(labels, sign, zoom, across, down)


def _boxes_moved(
    labels: torch.Tensor,
    sign: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    zoom: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    across: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    down: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> torch.Tensor:
    boxes = labels.numpy().astype(np.float64)
    z, s = zoom[:, None, None], sign[:, None, None]
    x = (boxes[:, :, 0:4:2] - 0.5) * s * z + across[:, None, None] + 0.5
    y = (boxes[:, :, 1:4:2] - 0.5) * z + down[:, None, None] + 0.5
    x = np.sort(x, axis=2)
    before = np.prod(np.stack([x[:, :, 1] - x[:, :, 0], y[:, :, 1] - y[:, :, 0]]), axis=0)
    x, y = np.clip(x, 0, 1), np.clip(y, 0, 1)
    after = np.prod(np.stack([x[:, :, 1] - x[:, :, 0], y[:, :, 1] - y[:, :, 0]]), axis=0)
    moved = boxes.copy()
    moved[:, :, 0:4:2], moved[:, :, 1:4:2] = x, y
    moved[:, :, 5] = np.where(after < _LEAST_VISIBLE * before, 1, boxes[:, :, 5])
    moved[:, :, 4] = np.where(after > 0, boxes[:, :, 4], -1)
    return torch.from_numpy(moved.astype(np.float32))
