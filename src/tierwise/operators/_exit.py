"""An exit of a model: a small head on a tensor inside it, where items leave that the head is sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import onnx

from tierwise.artifact import Filtering
from tierwise.capture import Cut

__all__ = ["NEVER", "ExitHead", "attach", "exit_names"]

NEVER = 2.0
"""A threshold that no confidence reaches."""

_INTEGERS = ("UINT8", "INT8")


@final
@dataclass(frozen=True)
class ExitHead:
    """One exit.

    Attributes:
        cut: Tensor of the float model that it reads.
        head: From that tensor to the names of `exit_names`.
        threshold: Items leave whose confidence is at least this.
        max_drop_frac: What of the metric may be lost on the validation split, up to and with this exit.
        left_frac: Share of all items of the validation split that leave here; None before thresholds are calibrated.
        filtering: For a filter, what it looks for and how well; None for other exits.
    """

    cut: str
    head: onnx.ModelProto
    threshold: float
    max_drop_frac: float
    left_frac: float | None = None
    filtering: Filtering | None = None


def exit_names(position: int) -> tuple[str, str]:
    """Tensor of the confidence [n, 1] and of the answer of the exit number ``position``."""
    return f"exit{position}_confidence", f"exit{position}_answer"


def attach(part: onnx.ModelProto, cut: Cut, head: onnx.ModelProto) -> None:
    """Put an exit's head on ``part``, which makes the tensor of ``cut``; bytes are dequantised for it."""
    source = cut.tensor.name
    if cut.tensor.dtype in _INTEGERS:
        pair = next(node for node in part.graph.node if source in node.output)
        source = f"{head.graph.output[0].name}_features"
        part.graph.node.append(
            onnx.helper.make_node("DequantizeLinear", [cut.tensor.name, *pair.input[1:]], [source], source)
        )
    for node in head.graph.node:
        copy = part.graph.node.add()
        copy.CopyFrom(node)
        for i, name in enumerate(copy.input):
            if name == head.graph.input[0].name:
                copy.input[i] = source
    part.graph.initializer.extend(head.graph.initializer)
    part.graph.output.extend(head.graph.output)
    onnx.checker.check_model(part)
