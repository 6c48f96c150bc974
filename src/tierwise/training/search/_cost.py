"""What each depth of biases and each slice of weights costs: bytes from captured graphs, time from compiled steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from tierwise.artifact import Optimiser
from tierwise.measure import Progress, Silent
from tierwise.training._scheme import Scheme
from tierwise.training._session import TrainingSession
from tierwise.training.compiler import Lesson, Model, Prediction, compile_training, predict_step, resolve
from tierwise.training.search._candidates import Candidates
from tierwise.training.search._entries import Entries, model_digest
from tierwise.training.search._table import Budget, Choice, Depth, Slice, Table

__all__ = ["Clock", "Costs", "calibrate", "measure_costs", "measured_cpu_s"]

_REVISION = 2
_WARM, _TIMED = 3, 15
Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor]
Clock = Callable[[Scheme], float]
"""CPU seconds of one step of a scheme, as compiled and run."""


@final
@dataclass(frozen=True)
class Costs:
    """Predictions of captured steps.

    Attributes:
        depths: By `Candidates.depths`: biases and the classifier.
        slices: By `Candidates.slices`: the slice beside the biases of the least depth that reaches it. Only the
            largest of a layer is captured.
        predict: Captures the step of any scheme, or takes what was captured from the cache.
    """

    depths: tuple[Prediction, ...]
    slices: tuple[Prediction, ...]
    predict: Callable[[Scheme], Prediction]

    def within(self, chosen: Candidates, budget: Budget) -> tuple[Candidates, Costs]:
        """What may be in a scheme of so many bytes, one depth at least: to train anything else is for nothing."""
        depths = [i for i, cost in enumerate(self.depths) if cost.bytes <= budget.bytes]
        depths = depths or [min(range(len(self.depths)), key=lambda i: self.depths[i].bytes)]
        deepest = chosen.depths[depths[-1]]
        slices = [
            i
            for i, ((_, _, biases), cost) in enumerate(zip(chosen.slices, self.slices, strict=True))
            if biases <= deepest and cost.bytes <= budget.bytes
        ]
        left = Candidates(tuple(chosen.depths[i] for i in depths), tuple(chosen.slices[i] for i in slices))
        return left, Costs(tuple(self.depths[i] for i in depths), tuple(self.slices[i] for i in slices), self.predict)

    def table(self, chosen: Candidates, depth_gains: Sequence[float], slice_gains: Sequence[float]) -> Table:
        """Costs and gains together; CPU times are still zero. A slice that makes the peak smaller counts as free."""
        depths = tuple(
            Depth(
                biases=biases,
                gain=gain,
                step_peak_bytes=cost.step_peak_bytes,
                prefix_peak_bytes=cost.prefix_peak_bytes,
                state_bytes=cost.state_bytes,
            )
            for biases, gain, cost in zip(chosen.depths, depth_gains, self.depths, strict=True)
        )
        slices = []
        for (layer, ratio, biases), gain, cost in zip(chosen.slices, slice_gains, self.slices, strict=True):
            under = self.depths[chosen.depths.index(biases)]
            slices.append(
                Slice(
                    layer=layer,
                    ratio=ratio,
                    biases=biases,
                    gain=gain,
                    step_peak_bytes=max(0, cost.step_peak_bytes - under.step_peak_bytes),
                    state_bytes=cost.state_bytes - under.state_bytes,
                )
            )
        return Table(depths=depths, slices=tuple(slices))


def measure_costs(
    model: Model, chosen: Candidates, optimiser: Optimiser, batch: Batch, cache: Path, progress: Progress
) -> Costs:
    """Capture one step for each depth and for the largest slice of each layer; smaller ones lie between these two.

    What is in ``cache`` is not captured again.

    Args:
        model: The model.
        chosen: What is captured.
        optimiser: Of the step.
        batch: Inputs and labels of the size that the step is compiled for.
        cache: Folder of entries.
        progress: Shows the captures.
    """
    entries = Entries(cache)
    shapes = [(str(x.dtype), tuple(x.shape)) for x in batch[0]]
    about = ["cost", _REVISION, str(torch.__version__), model_digest(model), shapes, msgspec.to_builtins(optimiser)]

    def predict(scheme: Scheme) -> Prediction:
        asked = [*about, msgspec.to_builtins(scheme)]
        known = entries.get(asked, Prediction)
        if known is None:
            known = predict_step(model, resolve(scheme, model), optimiser, batch)
            entries.put(asked, known)
        return known

    largest: dict[str, float] = {}
    for layer, ratio, _ in chosen.slices:
        largest[layer] = max(ratio, largest.get(layer, 0.0))
    with progress.step("capturing steps for their cost", len(chosen.depths) + len(largest)) as advance:

        def counted(scheme: Scheme) -> Prediction:
            cost = predict(scheme)
            advance(1)
            return cost

        depths = tuple(counted(chosen.bias_only(depth)) for depth in chosen.depths)
        wholes = {
            layer: counted(chosen.with_slice(depth, layer, ratio))
            for layer, ratio, depth in chosen.slices
            if ratio == largest[layer]
        }
    slices = tuple(
        _between(depths[chosen.depths.index(depth)], wholes[layer], ratio / largest[layer])
        for layer, ratio, depth in chosen.slices
    )
    return Costs(depths, slices, predict)


def _between(bare: Prediction, whole: Prediction, share: float) -> Prediction:
    """What is kept for a share's gradient, and its state, are in proportion to it."""
    pairs = zip(astuple(bare), astuple(whole), strict=True)
    return Prediction(*(round(low + share * (high - low)) for low, high in pairs))


def measured_cpu_s(module: torch.nn.Module, lesson: Lesson, optimiser: Optimiser) -> Clock:
    """A clock that compiles a scheme, runs some steps on one thread and takes the least CPU time of one."""

    def clock(scheme: Scheme) -> float:
        with tempfile.TemporaryDirectory(prefix="tierwise-search-") as folder:
            made = compile_training(module, lesson, scheme, optimiser, Path(folder) / "artifact", Silent())
            session = TrainingSession(made, 1)
            times = []
            for _ in range(_WARM + _TIMED):
                before_s = time.process_time()
                session.step(dict(lesson.batches[0][0]), lesson.batches[0][1])
                times.append(time.process_time() - before_s)
        return min(times[_WARM:])

    return clock


def calibrate(table: Table, chosen: Candidates, costs: Costs, clock: Clock, progress: Progress) -> Table:
    """CPU times for all of ``table``, from a few compiled steps.

    Measured are up to four depths spread over all, and the deepest with all its layers at the smallest and at the
    largest ratio. Non-negative weights of one step, of arithmetic and of traffic (in prefix and step each) are fitted
    to these, by relative error; all other times follow from the sizes of the captured graphs.
    """
    from scipy.optimize import nnls

    last = len(chosen.depths) - 1
    places = sorted({0, last // 3, 2 * last // 3, last})
    schemes = [chosen.bias_only(chosen.depths[place]) for place in places]
    schemes += [table.scheme(Choice(last, _all_layers(table, last, which))) for which in (0, -1)]
    rows, times = [], []
    with progress.step("timing compiled steps", len(schemes)) as advance:
        for scheme in schemes:
            rows.append(_features(costs.predict(scheme)))
            times.append(clock(scheme))
            advance(1)
    weights, _ = nnls(np.array(rows) / np.array(times)[:, None], np.ones(len(times)))
    depths = [float(_features(cost) @ weights) for cost in costs.depths]
    slices = [
        max(0.0, float((_features(cost) - _features(costs.depths[chosen.depths.index(biases)])) @ weights))
        for (_, _, biases), cost in zip(chosen.slices, costs.slices, strict=True)
    ]
    return table.timed(depths, slices)


def _all_layers(table: Table, depth: int, which: int) -> tuple[int, ...]:
    return tuple(sorted(places[which] for places in table.within(depth)))


def _features(cost: Prediction) -> npt.NDArray[np.float64]:
    """One; billions of multiply-accumulates and bytes, of the step and of the prefix."""
    sizes = (cost.step_macs, cost.prefix_macs, cost.step_traffic_bytes, cost.prefix_traffic_bytes)
    return np.array([1e-3, *(size * 1e-9 for size in sizes)])
