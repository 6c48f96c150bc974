"""The loss of detectors that answer a grid of cells, from boxes as `tierwise.tasks.box_labels` packs them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tierwise._errors import InputError
from tierwise.artifact import Detections

__all__ = ["boxes_loss", "cells_loss", "generalised_overlaps"]

_BOX_WEIGHT, _OBJECT_WEIGHT, _CLASS_WEIGHT = 2.0, 1.0, 0.5
_FOCUS = 2.0
"""Exponent of the focal loss (Lin et al. 2017, arXiv 1708.02002)."""
_LEAST = 1e-6


def boxes_loss(boxes: Detections, classes: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """`cells_loss` of (answer, labels) for a detector whose classes may stand in another order than the task's.

    Args:
        boxes: How the detector's answer is read.
        classes: Of the task.

    Raises:
        InputError: Its answer is no grid of cells, or has not exactly one class for each of the task's.
    """
    found = sorted(kind for kind in boxes.classes if kind >= 0)
    if boxes.layout != "grid" or found != list(range(classes)):
        raise InputError(
            f"a loss of boxes needs a grid of cells with one class for each of the task's {classes}",
            got=f"layout {boxes.layout!r}, classes {list(boxes.classes)}",
            fix="Take lessons of features, which need no labels",
        )
    channels = torch.tensor([boxes.classes.index(kind) for kind in range(classes)], dtype=torch.float32)

    def loss(answer: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        kinds = labels[:, :, 4]
        own = torch.where(kinds >= 0, channels[kinds.clamp_min(0).long()], kinds)
        return cells_loss(answer, torch.cat([labels[:, :, :4], own[:, :, None], labels[:, :, 5:]], dim=2))

    return cells_loss if found == list(boxes.classes) else loss


def cells_loss(answer: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Box, objectness and class loss of a batch.

    A box belongs to the four cells whose corners lie round its centre: a cell's offset goes through tanh, so exactly
    these reach it. Boxes are compared by generalised overlap (Rezatofighi et al. 2019, arXiv 1902.09630); objectness
    is to be the overlap reached, or 0, by the quality focal loss (Li et al. 2020, arXiv 2006.04388); classes by their
    logarithm. A cell that two boxes claim goes to the smaller; cells inside a crowd are not asked.

    Args:
        answer: [n, 5 + classes, rows, columns] (`tierwise.artifact.Detections`, layout ``grid``).
        labels: [n, most, 6].
    """
    answer = answer.float()
    objectness = answer[:, 0].clamp(_LEAST, 1 - _LEAST)
    wanted, asked, cells = _targets(labels, answer.shape[2], answer.shape[3])
    goal = torch.zeros_like(objectness)
    box_loss = class_loss = answer.sum() * 0.0
    if len(cells[0]):
        picture, row, column = cells
        values = answer[picture, :, row, column]
        boxes = _boxes(values, row, column, answer.shape[2], answer.shape[3])
        reached, generalised = generalised_overlaps(boxes, wanted[:, :4])
        box_loss = (1.0 - generalised).mean()
        shares = values[:, 5:].gather(1, wanted[:, 4:5].long()).clamp_min(_LEAST)
        class_loss = -shares.log().mean()
        goal[picture, row, column] = reached.detach().clamp(0.0, 1.0)
    entropy = -(goal * objectness.log() + (1 - goal) * (1 - objectness).log())
    focal = (goal - objectness).abs() ** _FOCUS * entropy * asked
    object_loss = focal.sum() / max(1, len(cells[0]))
    return _BOX_WEIGHT * box_loss + _OBJECT_WEIGHT * object_loss + _CLASS_WEIGHT * class_loss


def generalised_overlaps(ones: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlap and generalised overlap [k] of boxes [k, 4] with boxes [k, 4], pair by pair."""
    low, high = torch.maximum(ones[:, :2], others[:, :2]), torch.minimum(ones[:, 2:], others[:, 2:])
    common = (high - low).clamp_min(0).prod(1)
    sizes = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1) for boxes in (ones, others)]
    union = (sizes[0] + sizes[1] - common).clamp_min(_LEAST)
    hull_low, hull_high = torch.minimum(ones[:, :2], others[:, :2]), torch.maximum(ones[:, 2:], others[:, 2:])
    hull = (hull_high - hull_low).prod(1).clamp_min(_LEAST)
    overlap = common / union
    return overlap, overlap - (hull - union) / hull


def _boxes(values: torch.Tensor, row: torch.Tensor, column: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    offset, half = torch.tanh(values[:, 1:3]), 0.5 * torch.sigmoid(values[:, 3:5])
    centre = torch.stack([(column + offset[:, 0]) / columns, (row + offset[:, 1]) / rows], dim=1)
    return torch.cat([centre - half, centre + half], dim=1)


def _targets(
    labels: torch.Tensor, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Wanted boxes [k, 6] and their cells (picture, row, column), and which cells are asked [n, rows, columns]."""
    asked = torch.ones(len(labels), rows, columns)
    claims: dict[tuple[int, int, int], tuple[float, int]] = {}
    flat = labels.reshape(-1, 6).tolist()
    most = labels.shape[1]
    for place, (left, top, right, bottom, kind, crowd) in enumerate(flat):
        picture = place // most
        if kind < 0:
            continue
        if crowd:
            spans = [(top, bottom, rows), (left, right, columns)]
            down, across = [slice(int(low * count), int(high * count) + 1) for low, high, count in spans]
            asked[picture, down, across] = 0
            continue
        area = (right - left) * (bottom - top)
        row, column = int((top + bottom) / 2 * rows), int((left + right) / 2 * columns)
        for cell in ((row, column), (row + 1, column), (row, column + 1), (row + 1, column + 1)):
            key = (picture, *cell)
            if cell[0] < rows and cell[1] < columns and area < claims.get(key, (2.0, 0))[0]:
                claims[key] = (area, place)
    keys = torch.tensor(list(claims), dtype=torch.int64).reshape(-1, 3)
    wanted = labels.reshape(-1, 6)[[place for _, place in claims.values()]]
    cells = (keys[:, 0], keys[:, 1], keys[:, 2])
    asked[cells] = 1
    return wanted, asked, cells
