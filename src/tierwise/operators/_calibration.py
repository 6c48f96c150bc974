"""Ranges of activations on calibration items: from the extremes, from percentiles, or by least information lost.

ONNX Runtime's own histogram calibrators are not used: called through its quantiser, the entropy method has a single
candidate (128 bins for 128 levels) and so returns the extremes; the percentile method takes every range symmetric,
which wastes half of the levels behind a ReLU; and both keep every activation of every item in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from tierwise.measure import Advance
from tierwise.operators._session import open_session

__all__ = ["QUANTISED_OPS", "Method", "Range", "calibrated"]

Method = Literal["min-max", "percentile", "entropy"]
Range = tuple[float, float]
Feeds = Mapping[str, npt.NDArray[Any]]

QUANTISED_OPS = (frozenset(QLinearOpsRegistry) | frozenset(QDQRegistry)) - {"BatchNormalization"}
"""Operator types that ONNX Runtime's quantiser knows; a batch norm that could not be folded has no integer kernel."""

_BINS = 2048
_STEP = 16


def calibrated(
    model: onnx.ModelProto, batches: Sequence[Feeds], method: Method, percentile: float, advance: Advance
) -> dict[str, Range]:
    """The range of every float tensor at an operator that can be quantised.

    ``min-max``: all values seen. ``percentile``: the same share cut off at both ends. ``entropy``: values are clipped
    where the histogram of magnitudes, rounded to the levels there are, differs least from the original (smallest
    Kullback-Leibler divergence; Migacz, "8-bit inference with TensorRT", 2017).

    Args:
        model: A float model.
        batches: Its inputs, batch by batch.
        method: How ranges follow from the values.
        percentile: Share of values kept by ``percentile``, in percent.
        advance: Called with the number of items after each batch; each item counts once, whatever the method.
    """
    watched = _watched(model)
    session = open_session(watched)
    names = [value.name for value in watched.graph.output]
    seen: dict[str, _Seen] = {}
    passes = 1 if method == "min-max" else 2
    for turn in range(passes):
        for feeds in batches:
            for name, array in zip(names, session.run(names, dict(feeds)), strict=True):
                _note(seen, name, array, turn)
            if turn == passes - 1:
                advance(len(next(iter(feeds.values()))))
    return {name: tensor.range(method, percentile) for name, tensor in seen.items()}


def _note(seen: dict[str, _Seen], name: str, array: npt.NDArray[Any], turn: int) -> None:
    if array.dtype != np.float32 or array.size == 0:
        return
    if turn == 0:
        seen.setdefault(name, _Seen()).extremes(array)
    else:
        seen[name].count(array)


def _watched(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every tensor at a quantisable operator as an output."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    present = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type in QUANTISED_OPS:
            for name in (*node.input, *node.output):
                if name and name not in constants and name not in present:
                    present.add(name)
                    # ONNX Runtime finds out the types of outputs itself.
                    watched.graph.output.append(onnx.ValueInfoProto(name=name))
    return watched


@final
class _Seen:
    """Values of one tensor: extremes first, then histograms between them."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        self._values = np.zeros(_BINS, np.int64)
        self._magnitudes = np.zeros(_BINS, np.int64)

    def extremes(self, array: npt.NDArray[Any]) -> None:
        self._low = min(self._low, float(array.min()))
        self._high = max(self._high, float(array.max()))

    @property
    def _largest(self) -> float:
        return max(-self._low, self._high)

    def count(self, array: npt.NDArray[Any]) -> None:
        if self._low == self._high:
            return
        self._values += np.histogram(array, _BINS, (self._low, self._high))[0]
        # Zero is held exactly at any range, so that the many zeros behind a ReLU say nothing.
        magnitudes = np.abs(array[array != 0])
        self._magnitudes += np.histogram(magnitudes, _BINS, (0.0, self._largest))[0]

    def range(self, method: Method, percentile: float) -> Range:
        if method == "min-max" or self._low == self._high:
            return self._low, self._high
        if method == "percentile":
            share = np.concatenate([[0.0], np.cumsum(self._values) / self._values.sum()])
            edges = np.linspace(self._low, self._high, _BINS + 1)
            cut = (1.0 - percentile / 100.0) / 2
            # The last edge below the cut and the first above it: at least that share stays inside.
            left = edges[max(0, int(np.searchsorted(share, cut, side="right")) - 1)]
            right = edges[min(_BINS, int(np.searchsorted(share, 1.0 - cut - 1e-12)))]
            return float(left), float(right)
        levels = 128 if self._low < 0 < self._high else 255
        limit = _least_divergence(self._magnitudes, levels) / _BINS * self._largest
        return max(self._low, -limit), min(self._high, limit)


def _least_divergence(histogram: npt.NDArray[np.int64], levels: int) -> int:
    """Bins to keep so that ``levels`` steps over them represent the histogram best."""
    divergences = {kept: _divergence(histogram, kept, levels) for kept in [*range(levels, _BINS, _STEP), _BINS]}
    best: int = min(divergences, key=lambda kept: divergences[kept])
    return best


def _divergence(histogram: npt.NDArray[np.int64], kept: int, levels: int) -> float:
    inside = histogram[:kept].astype(np.float64)
    if not inside.any():
        return np.inf
    clipped = inside.copy()
    clipped[-1] += histogram[kept:].sum()
    starts = np.arange(levels) * kept // levels
    occupied = np.add.reduceat((inside > 0).astype(np.float64), starts)
    level = np.repeat(np.arange(levels), np.diff([*starts, kept]))
    spread = np.where(inside > 0, (np.add.reduceat(inside, starts) / np.maximum(occupied, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    # What was clipped into an empty bin has no counterpart; a small one keeps the divergence finite.
    return float((p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], 1e-9))).sum())
