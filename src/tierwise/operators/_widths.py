"""From a target to the number of channels that stay in each layer, by search."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final

import numpy as np
import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tierwise._errors import InputError
from tierwise.capture import export
from tierwise.measure import Progress
from tierwise.operators._channels import ChannelGroup, Example, Importance, channel_groups, channel_scores
from tierwise.operators._channels import remove_channels as remove
from tierwise.tasks import Task

__all__ = ["Found", "count_macs", "latency_frac", "search_widths", "widths_at"]

_HALVINGS = 12
_TIMED_HALVINGS = 5
_GIVEN_BACK = 64
_NEAR_FRAC = 0.98
"""A target is reached well enough within this share of it."""
_TIMED_GIVEN_BACK = 4
_WARM_UP_RUNS = 5
_ROUNDS = 15
_ROUND_S = 0.01

Widths = dict[str, int]


@final
@dataclass(frozen=True)
class Found:
    """What a search arrived at.

    Attributes:
        widths: Channels that stay, by group.
        ratio: Share of channels asked to leave there.
        reached_frac: What the target's measure gives for these widths.
        tried: How many different shapes were measured.
    """

    widths: Widths
    ratio: float
    reached_frac: float
    tried: int


def widths_at(
    ratio: float,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, torch.Tensor],
    scope: Literal["layer", "network"],
    multiple: int,
) -> Widths:
    """Channels that stay when ``ratio`` of them leave.

    Args:
        ratio: Share that leaves, before rounding.
        groups: All groups.
        scores: Of each unit, with mean 1 in each group.
        scope: ``layer``: the same share leaves each group. ``network``: those of the lowest scores leave, wherever
            they are.
        multiple: What stays is rounded to a multiple of this; some always stay.
    """
    if scope == "layer":
        return {group.name: group.rounded(group.channels * (1 - ratio), multiple) for group in groups}
    # Each unit counts with the channels it holds, so that the ratio is one of channels.
    values = torch.cat([scores[g.name] for g in groups])
    weights = torch.cat([torch.full_like(scores[g.name], g.unit) for g in groups])
    order = torch.argsort(values, stable=True)
    gone = torch.zeros(len(values), dtype=torch.bool)
    gone[order] = torch.cumsum(weights[order], 0) <= ratio * float(weights.sum()) + 1e-6
    widths, start = {}, 0
    for group in groups:
        units = group.channels // group.unit
        left = units - int(gone[start : start + units].sum())
        widths[group.name] = group.rounded(left * group.unit, multiple)
        start += units
    return widths


def search_widths(
    module: nn.Module,
    task: Task,
    *,
    ratio: float | None,
    macs_frac: float | None,
    latency_target: float | None,
    importance: Importance,
    scope: Literal["layer", "network"],
    multiple: int,
    progress: Progress,
) -> Found:
    """The mildest pruning that reaches a target; see `Prune` for the targets.

    Args:
        module: The model; its gradients are used where ``importance`` is ``taylor``.
        task: Gives an example and its outputs.
        ratio: Share of channels that leave; no search.
        macs_frac: Multiply-accumulates that stay, as a share.
        latency_target: Time of the exported model that stays, as a share.
        importance: How channels are ranked.
        scope: See `widths_at`.
        multiple: See `widths_at`.
        progress: Shows the search.

    Raises:
        InputError: Even the smallest shape does not reach the target; the message says how far it goes.
    """
    example = task.example()
    groups = channel_groups(module, example)
    shapes = _Shapes(module, example, groups, channel_scores(module, example, importance), scope, multiple)
    if ratio is not None:
        widths = shapes.at(ratio)
        return Found(widths, ratio, shapes.macs_frac(widths), 1)
    if latency_target is not None:
        whole = export(module, example, task.outputs)

        def time_of(widths: Widths) -> float:
            advance(1)
            return latency_frac(export(shapes.shaped(widths), example, task.outputs), whole, task)

        with progress.step("search widths by latency", 1 + _TIMED_HALVINGS + _TIMED_GIVEN_BACK) as advance:
            found = _bisect(shapes.at, time_of, latency_target, _TIMED_HALVINGS, "latency_frac")
            return _give_back(found, shapes, time_of, latency_target, _TIMED_GIVEN_BACK)
    with progress.step("search widths by arithmetic", None):
        target = macs_frac or 1.0
        found = _bisect(shapes.at, shapes.macs_frac, target, _HALVINGS, "macs_frac")
        return _give_back(found, shapes, shapes.macs_frac, target, _GIVEN_BACK)


@final
@dataclass(frozen=True)
class _Shapes:
    """The narrower shapes of one model.

    Attributes:
        module: The model.
        example: Inputs for it.
        groups: Its channels.
        scores: How much each unit of a group matters.
        scope: See `widths_at`.
        multiple: See `widths_at`.
    """

    module: nn.Module
    example: Example
    groups: Sequence[ChannelGroup]
    scores: Mapping[str, torch.Tensor]
    scope: Literal["layer", "network"]
    multiple: int

    @cached_property
    def _macs(self) -> int:
        return count_macs(self.module, self.example)

    def at(self, ratio: float) -> Widths:
        """Channels that stay when ``ratio`` of them leave."""
        return widths_at(ratio, self.groups, self.scores, self.scope, self.multiple)

    def shaped(self, widths: Widths) -> nn.Module:
        """A copy of the model with these channels."""
        small = copy.deepcopy(self.module)
        remove(small, self.example, widths, self.scores)
        return small

    def macs_frac(self, widths: Widths) -> float:
        """Share of the multiply-accumulates that stays."""
        return count_macs(self.shaped(widths), self.example) / self._macs


def _bisect(
    at: Callable[[float], Widths], measure: Callable[[Widths], float], target: float, halvings: int, name: str
) -> Found:
    """The smallest ratio whose measure is at most ``target``, by halving the interval that holds it."""
    known: dict[tuple[int, ...], float] = {}

    def value(ratio: float) -> float:
        widths = at(ratio)
        key = tuple(widths.values())
        if key not in known:
            known[key] = measure(widths)
        return known[key]

    low, high = 0.0, 1.0
    if value(high) > target:
        raise InputError(
            f"{name} must be within reach of this model; its smallest shape has {value(high):.3f}",
            got=target,
            where="prune",
            fix="Ask for more than that, or allow finer steps with a smaller round_to",
        )
    for _ in range(halvings):
        if value(high) >= _NEAR_FRAC * target:
            break
        middle = (low + high) / 2
        if value(middle) <= target:
            high = middle
        else:
            low = middle
    return Found(at(high), high, value(high), len(known))


def _give_back(found: Found, shapes: _Shapes, measure: Callable[[Widths], float], target: float, tries: int) -> Found:
    """Let channels stay that rounding took too many, the ones that matter most first, as long as the target holds.

    One share for all layers jumps over the target where the widths of several layers drop at once.
    """
    widths, reached, tried = dict(found.widths), found.reached_frac, found.tried
    full: set[str] = set()
    while tries > 0 and reached < _NEAR_FRAC * target:
        more = {}
        for group in shapes.groups:
            width, unit = widths[group.name], group.unit
            steps = range(width + unit, group.channels + 1, unit)
            wider = next((w for w in steps if group.rounded(w, shapes.multiple) == w), None)
            if wider is not None and group.name not in full:
                # The best of the units that would stay in addition.
                lost = torch.sort(shapes.scores[group.name], descending=True).values[width // unit]
                more[group.name] = (float(lost), wider)
        if not more:
            break
        name = max(more, key=lambda name: more[name][0])
        value = measure({**widths, name: more[name][1]})
        tries, tried = tries - 1, tried + 1
        if value <= target:
            widths[name], reached = more[name][1], value
        else:
            full.add(name)
    return Found(widths, found.ratio, reached, tried)


def count_macs(module: nn.Module, example: Example) -> int:
    """Multiply-accumulates of one item: convolutions and matrix products, attention included."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(*example.values())
    # One multiplication and one addition each, for a batch of two.
    return int(counter.get_total_flops()) // 2 // next(iter(example.values())).shape[0]


def latency_frac(model: onnx.ModelProto, whole: onnx.ModelProto, task: Task) -> float:
    """Time of ``model`` as a share of that of ``whole``: one item, one thread, ONNX Runtime.

    Both run by turns, so that what else the machine does meets both; the median of the rounds' ratios.
    """
    feeds = {name: array[:1] for name, array in task.tensors(_one(task)).items()}
    sessions = [_session(model), _session(whole)]
    for session in sessions:
        for _ in range(_WARM_UP_RUNS):
            session.run(None, feeds)
    runs = [max(1, round(_ROUND_S / max(1e-6, _time(session, feeds, 3)))) for session in sessions]
    ratios = [_time(sessions[0], feeds, runs[0]) / _time(sessions[1], feeds, runs[1]) for _ in range(_ROUNDS)]
    return statistics.median(ratios)


def _one(task: Task) -> Sequence[Any]:
    return list(task.splits["calibration"].items[:1])


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _time(session: Any, feeds: dict[str, np.ndarray[Any, Any]], runs: int) -> float:
    """Seconds of one run, over ``runs``."""
    started = time.perf_counter()
    for _ in range(runs):
        session.run(None, feeds)
    return (time.perf_counter() - started) / runs
