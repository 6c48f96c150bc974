"""Exits on a model as it is now: thresholds calibrated on the validation split, and the segments between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tierwise.capture import composition_error, split
from tierwise.operators._exit import NEVER, ExitHead, attach, exit_names
from tierwise.operators._filtering import refit_filter
from tierwise.operators._partition import calibration_feeds, named_cut, partition_cuts
from tierwise.operators._session import answers
from tierwise.operators._work import Work
from tierwise.tasks import Task, score

__all__ = ["refit"]

_CANDIDATES = 256


def refit(work: Work) -> Work:
    """``work`` with its segments made from its model as it is now, and the thresholds calibrated on it."""
    if work.exits[0].filtering is not None:
        return refit_filter(work)
    watched = _watched(work.model, work.exits, work.task)
    exits = _calibrated(watched, work.exits, work.task)
    segments, rest = [], work.model
    for one in exits:
        cut = named_cut(partition_cuts(rest, "fp32"), one.cut)
        head, rest = split(rest, cut)
        attach(head, cut, one.head)
        segments.append(head)
    error = composition_error(work.model, (*segments, rest), calibration_feeds(work.task))
    notes = (*work.notes, _note(watched, exits, work.task))
    return dataclasses.replace(work, exits=exits, segments=(*segments, rest), composition_error=error, notes=notes)


def _note(watched: Sequence[npt.NDArray[Any]], exits: Sequence[ExitHead], task: Task) -> str:
    logits, leaving = _with_exits(watched, exits)
    labels = task.splits["validation"].labels
    full = score(task.metric, logits[-1], labels)
    mixed = score(task.metric, _mixed(logits, leaving), labels)
    shares = ", ".join(
        f"{100 * float(gone.mean()):.1f} % at exit {i} (confidence {one.threshold:.3f})"
        for i, (gone, one) in enumerate(zip(leaving, exits, strict=True))
    )
    return f"early-exit: on the validation split {shares} leave; {task.metric} {mixed:.4f}, without exits {full:.4f}"


def _watched(model: onnx.ModelProto, exits: Sequence[ExitHead], task: Task) -> list[npt.NDArray[Any]]:
    """On the validation split: confidence and answer of each exit in turn, then the model's own answer."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    cuts = partition_cuts(model, "fp32")
    for one in exits:
        attach(whole, named_cut(cuts, one.cut), one.head)
    given = answers(whole, task, "validation")
    found = [given[name] for i in range(len(exits)) for name in exit_names(i)]
    return [*found, given[model.graph.output[0].name]]


def _calibrated(watched: Sequence[npt.NDArray[Any]], exits: Sequence[ExitHead], task: Task) -> tuple[ExitHead, ...]:
    """The lowest thresholds that keep the budgets, from the first exit to the last."""
    labels = task.splits["validation"].labels
    final = watched[-1]
    floor = score(task.metric, final, labels)
    mixed, inside = final.copy(), np.ones(len(labels), bool)
    done = []
    for i, one in enumerate(exits):
        confidence, answer = watched[2 * i].reshape(-1), watched[2 * i + 1]
        threshold = NEVER
        for candidate in _candidates(confidence[inside]):
            trial = np.where((inside & (confidence >= candidate))[:, None], answer, mixed)
            # Scores are shares of items; the slack is for rounding only.
            if score(task.metric, trial, labels) >= floor - one.max_drop_frac - 1e-9:
                threshold = float(candidate)
                break
        leave = inside & (confidence >= threshold)
        mixed, inside = np.where(leave[:, None], answer, mixed), inside & ~leave
        done.append(dataclasses.replace(one, threshold=threshold, left_frac=float(leave.mean())))
    return tuple(done)


def _candidates(confidence: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Thresholds to try, the lowest first."""
    if len(confidence) == 0:
        return confidence
    return np.unique(np.quantile(confidence, np.linspace(0, 1, _CANDIDATES), method="higher"))


def _with_exits(
    watched: Sequence[npt.NDArray[Any]], exits: Sequence[ExitHead]
) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[np.bool_]]]:
    """Answers of each exit and of the model, and which items leave at each exit."""
    inside = np.ones(len(watched[-1]), bool)
    leaving = []
    for i, one in enumerate(exits):
        leave = inside & (watched[2 * i].reshape(-1) >= one.threshold)
        leaving.append(leave)
        inside &= ~leave
    return [*watched[1:-1:2], watched[-1]], leaving


def _mixed(logits: Sequence[npt.NDArray[Any]], leaving: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[Any]:
    mixed = logits[-1].copy()
    for answer, gone in zip(logits, leaving, strict=False):
        mixed[gone] = answer[gone]
    return mixed
