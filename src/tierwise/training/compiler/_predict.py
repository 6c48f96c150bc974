"""What a step will take, from its captured graph alone: nothing is exported or run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import fx

from tierwise.artifact import Optimiser, Trained
from tierwise.training.compiler._joint import capture_step
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._model import Model
from tierwise.training.compiler._parts import border_bytes, frozen_prefix, plan_parts
from tierwise.training.compiler._passes import macs, simplify
from tierwise.training.compiler._reference import Batch
from tierwise.training.compiler._split import divide

__all__ = ["Prediction", "predict_step"]


@final
@dataclass(frozen=True)
class Prediction:
    """What a step takes.

    Attributes:
        step_peak_bytes: Most that intermediate tensors of the step take at once, with what the prefix gave to it.
        prefix_peak_bytes: The same of the frozen prefix; 0 where there is none.
        state_bytes: Trained tensors and the optimiser's, once.
        step_macs: Multiply-accumulates of the step.
        prefix_macs: The same of the frozen prefix.
        step_traffic_bytes: Sum of what all operators of the step write.
        prefix_traffic_bytes: The same of the frozen prefix.
    """

    step_peak_bytes: int
    prefix_peak_bytes: int
    state_bytes: int
    step_macs: int
    prefix_macs: int
    step_traffic_bytes: int
    prefix_traffic_bytes: int

    @property
    def bytes(self) -> int:
        """What a node needs beyond the frozen weights; prefix and step run one behind the other."""
        return max(self.step_peak_bytes, self.prefix_peak_bytes) + self.state_bytes


def predict_step(model: Model, trained: Sequence[Trained], optimiser: Optimiser, batch: Batch) -> Prediction:
    """Capture the step and plan it as the compiler would; nothing is run.

    On the device ``meta``, where weights take nothing, there is no plan: its peaks are those of the order that was
    traced, without masks, which is more than a compiled step takes.

    Raises:
        InputError: As `capture_step`.
    """
    joint = capture_step(model, trained, optimiser, *batch)
    simplify(joint.graph)
    prefix, step = divide(joint)
    work = macs(step.graph), 0 if prefix is None else macs(prefix.graph)
    traffic = _traffic(step.graph), 0 if prefix is None else _traffic(prefix.graph)
    if batch[1].is_meta:
        front = 0 if prefix is None else peak_bytes(prefix.graph)
        peak, border = peak_bytes(step.graph), 0 if prefix is None else border_bytes(step, prefix)
    else:
        again = partial(frozen_prefix, model, trained, optimiser, batch)
        parts = plan_parts(step, prefix, len(batch[1]), again)
        front = 0 if parts.prefix_plan is None else parts.prefix_plan.timeline.peak_bytes
        peak, border = parts.step_plan.timeline.peak_bytes, parts.border_bytes
    return Prediction(
        step_peak_bytes=peak + border,
        prefix_peak_bytes=front + border,
        state_bytes=sum(4 * torch.Size(one.shape).numel() * (1 + optimiser.slots) for one in trained),
        step_macs=work[0],
        prefix_macs=work[1],
        step_traffic_bytes=traffic[0],
        prefix_traffic_bytes=traffic[1],
    )


def _traffic(graph: fx.GraphModule) -> int:
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function"]
    return sum(int(v.numel()) * v.element_size() for v in values if isinstance(v, torch.Tensor))
