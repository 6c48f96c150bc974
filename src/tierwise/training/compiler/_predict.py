"""What a step will take, from its captured graph alone: nothing is exported or run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import fx

from tierwise.artifact import Optimiser, Trained
from tierwise.training.compiler._joint import capture_step
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._model import Model
from tierwise.training.compiler._passes import macs, simplify, update_at_once
from tierwise.training.compiler._reference import Batch
from tierwise.training.compiler._split import divide

__all__ = ["Prediction", "predict_step"]


@final
@dataclass(frozen=True)
class Prediction:
    """What a step takes.

    Attributes:
        step_peak_bytes: Most that intermediate tensors of the step take at once.
        prefix_peak_bytes: The same of the frozen prefix; 0 where there is none.
        state_bytes: Trained tensors and the optimiser's, once (a node holds them twice).
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
        return max(self.step_peak_bytes, self.prefix_peak_bytes) + 2 * self.state_bytes


def predict_step(model: Model, trained: Sequence[Trained], optimiser: Optimiser, batch: Batch) -> Prediction:
    """Capture the step and read its sizes off the graph; works on the device ``meta`` too, where weights take nothing.

    Raises:
        InputError: As `capture_step`.
    """
    joint = capture_step(model, trained, optimiser, *batch)
    simplify(joint.graph)
    prefix, step = divide(joint)
    update_at_once(step.graph)
    state = sum(4 * torch.Size(one.shape).numel() * (1 + optimiser.slots) for one in trained)
    return Prediction(
        step_peak_bytes=peak_bytes(step.graph),
        prefix_peak_bytes=0 if prefix is None else peak_bytes(prefix.graph),
        state_bytes=state,
        step_macs=macs(step.graph),
        prefix_macs=0 if prefix is None else macs(prefix.graph),
        step_traffic_bytes=_traffic(step.graph),
        prefix_traffic_bytes=0 if prefix is None else _traffic(prefix.graph),
    )


def _traffic(graph: fx.GraphModule) -> int:
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function"]
    return sum(int(v.numel()) * v.element_size() for v in values if isinstance(v, torch.Tensor))
