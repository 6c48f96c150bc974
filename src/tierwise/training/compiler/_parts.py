"""A frozen prefix computes every item by itself, so a batch can go through it in parts that need less memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._split import Part

__all__ = ["prefix_in_parts"]


def prefix_in_parts(prefix: Part, batch: int, most_bytes: int, again: Callable[[int], Part | None]) -> tuple[Part, int]:
    """The prefix for fewer items at once, and how many: the most that need no more than the step behind it does.

    Args:
        prefix: For the whole batch.
        batch: Items of a step.
        most_bytes: What the step needs.
        again: Captures the prefix for so many items.
    """
    whole = peak_bytes(prefix.graph)
    fitting = [items for items in range(1, batch) if batch % items == 0 and whole * items <= most_bytes * batch]
    if whole <= most_bytes or batch == 1:
        return prefix, batch
    items = max(fitting, default=1)
    part = again(items)
    if part is None or not _stacks(part, prefix, items, batch):
        return prefix, batch
    return part, items


def _stacks(part: Part, whole: Part, items: int, batch: int) -> bool:
    """Whether each output of the whole is those of the parts one behind another, or the same in all of them."""
    if (part.inputs, part.outputs) != (whole.inputs, whole.outputs):
        return False
    for mine, theirs in zip(_shapes(part), _shapes(whole), strict=True):
        stacked = theirs[:1] == (batch,) and mine == (items, *theirs[1:])
        if not stacked and mine != theirs:
            return False
    return True


def _shapes(part: Part) -> list[tuple[int, ...]]:
    output = next(node for node in part.graph.graph.nodes if node.op == "output")
    values = [node.meta["val"] for node in output.args[0]]
    return [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]
