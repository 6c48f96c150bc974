"""Prefix and step as files, planned for memory: a batch goes through the prefix in parts where that needs less."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from tierwise.artifact import Optimiser, Trained
from tierwise.training.compiler._joint import capture_step
from tierwise.training.compiler._kernels import bias_apart
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._masks import save_masks
from tierwise.training.compiler._model import Model
from tierwise.training.compiler._onnx import part_to_onnx
from tierwise.training.compiler._optimised import Planned, plan_graph
from tierwise.training.compiler._passes import simplify
from tierwise.training.compiler._reference import Batch
from tierwise.training.compiler._split import Part, divide

__all__ = ["Parts", "are_items_apart", "border_bytes", "frozen_prefix", "plan_parts"]


@final
@dataclass(frozen=True)
class Parts:
    """What a step consists of.

    Attributes:
        step: What training changes.
        step_plan: Its file.
        prefix: What never changes, for ``items`` at once; None where there is no such part.
        prefix_plan: Its file.
        items: Items that the prefix takes at once.
        border_bytes: What the prefix gives to the step, for a whole batch.
    """

    step: Part
    step_plan: Planned
    prefix: Part | None
    prefix_plan: Planned | None
    items: int
    border_bytes: int


def plan_parts(
    step: Part, prefix: Part | None, batch: int, again: Callable[[int], Part | None], *, bit_masks: bool = False
) -> Parts:
    """Export prefix and step; the step with masks for activations.

    Args:
        step: For a whole batch.
        prefix: For a whole batch.
        batch: Items of a step.
        again: Captures the prefix for so many items.
        bit_masks: Masks are bits, not bytes.

    Raises:
        InputError: A graph cannot be exported.
    """
    bias_apart(step.graph)
    save_masks(step.graph)
    step_plan = plan_graph(part_to_onnx(step), bit_masks=bit_masks)
    if prefix is None:
        return Parts(step, step_plan, None, None, batch, 0)
    # A prefix computes every item by itself: with norms that keep their statistics nothing mixes the items of a batch.
    part, items = _in_parts(prefix, batch, step_plan.timeline.peak_bytes, again)
    return Parts(step, step_plan, part, plan_graph(part_to_onnx(part)), items, border_bytes(step, prefix))


def border_bytes(step: Part, prefix: Part) -> int:
    """What the prefix gives to the step, for a whole batch."""
    holders = [node for node in step.graph.graph.nodes if node.op == "placeholder"]
    values = [n.meta["val"] for n, name in zip(holders, step.inputs, strict=True) if name in prefix.outputs]
    return sum(int(value.numel()) * int(value.element_size()) for value in values)


def are_items_apart(prefix: Part | None, inputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether each output of the prefix holds what it makes of one item behind what it makes of the one before.

    Found out with the items in another order: a tensor [items * heads, ...] may be sorted by either.

    Args:
        prefix: For a whole batch.
        inputs: A batch.
    """
    if prefix is None:
        return False
    given = [inputs[name] for name in prefix.inputs]
    batch = len(given[0])
    with torch.no_grad():
        before, behind = prefix.graph(*given), prefix.graph(*(x.roll(1, 0) for x in given))
    for one, other in zip(before, behind, strict=True):
        if one.ndim == 0 or len(one) % batch:
            return False
        turned = one.reshape(batch, -1).roll(1, 0)
        if not torch.allclose(turned.double(), other.reshape(batch, -1).double(), rtol=1e-4, atol=1e-5):
            return False
    return True


def frozen_prefix(
    model: Model, trained: Sequence[Trained], optimiser: Optimiser, batch: Batch, items: int
) -> Part | None:
    """The frozen prefix for the first ``items`` of ``batch``."""
    inputs, labels = batch
    joint = capture_step(model, trained, optimiser, tuple(x[:items] for x in inputs), labels[:items])
    simplify(joint.graph)
    return divide(joint)[0]


def _in_parts(prefix: Part, batch: int, most_bytes: int, again: Callable[[int], Part | None]) -> tuple[Part, int]:
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
