"""What a filter is trained and judged on: items of a split, or tiles of its frames, and which hold anything."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tierwise.operators._session import free_batch, open_session
from tierwise.tasks import Task

__all__ = ["APART", "OVERLAPPING", "seen", "tiles", "tiles_hold", "view_items", "views_hold"]

_BATCH = 16
_SIDES = 2

Corners = tuple[tuple[float, float], ...]
"""Upper and left edges of tiles, as shares of the picture; each tile takes half of it each way."""

APART: Corners = tuple((top, left) for top in (0, 0.5) for left in (0, 0.5))
"""A picture cut into four, for judging: no pixel counts twice."""

OVERLAPPING: Corners = tuple((top, left) for top in (0, 0.25, 0.5) for left in (0, 0.25, 0.5))
"""Nine tiles, for learning: as many frames show more than twice as much."""
# Of a box's area: from here on a tile holds it; a tile with less than that of one, but some, is neither.
_HELD_FRAC = 0.5

Array = npt.NDArray[Any]


def seen(
    model: Any, task: Task, split: str, name: str, interesting: Collection[int], *, corners: Corners = APART
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The tensor ``name`` of ``model`` for each view of a split, and which views hold something of interest.

    A view is an item of a task with classes. For detection it is a tile of a frame, cut and enlarged in the model's own
    tensors: views with and without boxes then come from the same frames, and differ in nothing but what they show.
    ``corners`` says which tiles.
    """
    session, size = open_session(model), _BATCH if free_batch(model) else 1
    found, held = [], []
    for feeds, holds in _views(task, split, interesting, corners):
        for start in range(0, len(holds), size):
            rows = {key: array[start : start + size] for key, array in feeds.items()}
            found.append(session.run([name], rows)[0])
        held.append(holds)
    return np.concatenate(found), np.concatenate(held)


def views_hold(task: Task, split: str, interesting: Collection[int]) -> npt.NDArray[np.bool_]:
    """Which views of a split hold something of interest, as `seen` counts them."""
    labels = task.splits[split].labels
    if task.boxes is None:
        return np.isin(labels, list(interesting))
    held, clear = tiles_hold(labels)
    return held[clear]


def view_items(task: Task, split: str, *, corners: Corners = APART) -> npt.NDArray[np.int64]:
    """Which item of a split each of its views is of, [n]."""
    items = np.arange(len(task.splits[split]))
    if task.boxes is None:
        return items
    _, clear = tiles_hold(task.splits[split].labels, corners)
    return np.repeat(items, len(corners))[clear]


def _views(
    task: Task, split: str, interesting: Collection[int], corners: Corners
) -> Iterator[tuple[dict[str, Array], npt.NDArray[np.bool_]]]:
    chosen = task.splits[split]
    for start in range(0, len(chosen), _BATCH):
        feeds = task.tensors(chosen.items[start : start + _BATCH])
        labels = chosen.labels[start : start + _BATCH]
        if task.boxes is None:
            yield feeds, np.isin(labels, list(interesting))
            continue
        held, clear = tiles_hold(labels, corners)
        if clear.any():
            yield {name: tiles(array, corners)[clear] for name, array in feeds.items()}, held[clear]


def tiles(pictures: npt.NDArray[np.float32], corners: Corners = APART) -> npt.NDArray[np.float32]:
    """Tiles of each picture [n, channels, height, width], each enlarged to the size of the whole: [n * tiles, ...].

    Tiles of one picture follow each other.
    """
    import torch

    height, width = pictures.shape[2:]
    tall, wide = height // _SIDES, width // _SIDES
    firsts = [(int(top * height), int(left * width)) for top, left in corners]
    parts = [pictures[:, :, row : row + tall, column : column + wide] for row, column in firsts]
    cut = torch.from_numpy(np.ascontiguousarray(np.stack(parts, 1)).reshape(-1, pictures.shape[1], tall, wide))
    large: npt.NDArray[np.float32] = torch.nn.functional.interpolate(cut, (height, width), mode="bilinear").numpy()
    return large


def tiles_hold(
    labels: npt.NDArray[np.float32], corners: Corners = APART
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which tiles of `tiles` hold a box, and of which that can be said.

    Args:
        labels: Boxes of each picture, as `tierwise.tasks.box_labels` packs them.
        corners: As for `tiles`.

    Returns:
        Whether at least half of a box lies in the tile, and whether that or no box at all does: a sliver of a box, or a
        part of a crowd, is neither something nor nothing.
    """
    boxes, real = labels[:, :, :4], labels[:, :, 4] >= 0
    sole = real & (labels[:, :, 5] == 0)
    area = np.maximum((boxes[:, :, 2:] - boxes[:, :, :2]).prod(2), 1e-12)
    held, clear = [], []
    for top, left in corners:
        first = np.array([left, top])
        inside = np.minimum(boxes[:, :, 2:], first + 1 / _SIDES) - np.maximum(boxes[:, :, :2], first)
        frac = np.maximum(inside, 0).prod(2) / area
        holds = (sole & (frac >= _HELD_FRAC)).any(1)
        held.append(holds)
        clear.append(holds | ~(real & (frac > 0)).any(1))
    return np.stack(held, 1).reshape(-1), np.stack(clear, 1).reshape(-1)
