"""Accuracy-aware quantisation: which layers go back to float so that a quantised model loses no more than allowed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx

from tierwise._errors import InputError
from tierwise.capture import read_graph
from tierwise.measure import Progress
from tierwise.operators._calibration import Range
from tierwise.operators._quantise import Scheme, compute_nodes, quantised
from tierwise.operators._session import answers, validation_score
from tierwise.operators._work import Work

__all__ = ["Sensitivity", "back_to_float", "sensitivities"]

_ITEMS = 64


@final
@dataclass(frozen=True)
class Sensitivity:
    """What quantising one layer alone does to the model's answer.

    Attributes:
        node: Name of the operator.
        label: Its module path and type.
        sqnr_db: Power of the float answer over the power of the difference, in decibels; low is sensitive.
        macs_frac: Share of the model's arithmetic.
    """

    node: str
    label: str
    sqnr_db: float
    macs_frac: float


def sensitivities(
    floating: onnx.ModelProto, ranges: Mapping[str, Range], scheme: Scheme, work: Work, progress: Progress
) -> list[Sensitivity]:
    """Every layer quantised alone, all others in float, on calibration items; the most sensitive first."""
    graph = read_graph(work.model)
    # Preparing a model folds operators but keeps the names of those with arithmetic.
    labels = {node.name: node.label for node in graph.nodes}
    macs = {node.name: node.macs for node in read_graph(floating).nodes}
    output = floating.graph.output[0].name
    expected = answers(floating, work.task, "calibration", _ITEMS)[output].astype(np.float64)
    nodes = compute_nodes(floating, scheme)
    found = []
    with progress.step("sensitivity of layers", len(nodes)) as advance:
        for node in nodes:
            alone = quantised(floating, ranges, scheme, only=[node.name, *_activations(floating, node)])
            got = answers(alone, work.task, "calibration", _ITEMS)[output]
            share = macs.get(node.name, 0) / max(1, graph.macs)
            found.append(Sensitivity(node.name, labels.get(node.name, node.name), _sqnr_db(expected, got), share))
            advance(1)
    return sorted(found, key=lambda layer: layer.sqnr_db)


def _activations(model: onnx.ModelProto, node: onnx.NodeProto) -> list[str]:
    """The activation that is fused into an operator, whose range is then the operator's."""
    readers = [other for other in model.graph.node if node.output[0] in other.input]
    return [other.name for other in readers if len(readers) == 1 and other.op_type in ("Relu", "Clip")]


def _sqnr_db(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    noise = float(((got - expected) ** 2).sum())
    return 10 * math.log10(max(float((expected**2).sum()), 1e-30) / noise) if noise > 0 else math.inf


def back_to_float(
    model: onnx.ModelProto,
    floating: onnx.ModelProto,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    work: Work,
    max_drop_frac: float,
    progress: Progress,
    apart: Collection[str] = (),
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """``model`` with as many of its most sensitive layers in float as the budget asks for, and notes on them.

    Layers return in the order of `sensitivities`, measured once; after each the validation score decides. Where all of
    them are in float and it still does not hold, the float model itself is the answer.

    Args:
        model: Quantised throughout.
        floating: The prepared float model it came from.
        ranges: Of its tensors.
        scheme: The integers.
        work: Gives the task and the model as it was exported.
        max_drop_frac: Largest allowed difference of the task's metric on the validation split.
        progress: Where to say how far it is.
        apart: Operators that are in float anyway.

    Raises:
        InputError: The validation split is empty.
    """
    task, metric = work.task, work.task.metric
    if len(task.splits["validation"]) == 0:
        raise InputError("a budget for the drop needs validation items", got="none", where=f"task {task.name!r}")
    goal = validation_score(work.model, task)
    drop = goal - validation_score(model, task)
    if drop <= max_drop_frac:
        return model, (
            f"sptq: validation {metric} {_points(drop)} within {100 * max_drop_frac:.2f} points, all layers int8",
        )
    notes = [
        f"sptq: validation {metric} {_points(drop)} with all layers int8, more than {100 * max_drop_frac:.2f} points"
    ]
    layers = sensitivities(floating, ranges, scheme, work, progress)
    with progress.step("layers back to float", len(layers)) as advance:
        for count, layer in enumerate(layers, start=1):
            before = drop
            back = [*apart, *(other.node for other in layers[:count])]
            model = quantised(floating, ranges, scheme, floating=back, scopes=work.model)
            drop = goal - validation_score(model, task)
            notes.append(
                f"sptq: {layer.label} back to float ({layer.sqnr_db:.1f} dB alone, {100 * layer.macs_frac:.1f} % of "
                f"the arithmetic): {_points(before)} -> {_points(drop)}"
            )
            advance(1)
            if drop <= max_drop_frac:
                return model, tuple(notes)
    notes.append("sptq: the budget holds only with everything in float")
    return work.model, tuple(notes)


def _points(drop: float) -> str:
    return f"drop {100 * drop:.2f} points"
