"""A filter on a model as it is now: its threshold and scores on the validation split, and the segments around it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from tierwise.capture import Cut, composition_error, cut_points, find_cut, read_graph, split
from tierwise.operators._crossing import LATENT
from tierwise.operators._exit import ExitHead, attach, exit_names
from tierwise.operators._partition import calibration_feeds, named_cut, partition_cuts
from tierwise.operators._session import answers
from tierwise.operators._views import seen

if TYPE_CHECKING:
    from tierwise.operators._work import Work

__all__ = ["Flags", "Floats", "area_under_curve", "filter_cut", "least_confidence", "raised", "refit_filter"]

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


def filter_cut(work: Work, name: str) -> Cut:
    """The cut of ``work.model`` that ``name`` means, the latent's included."""
    if work.crossing is not None:
        return find_cut(cut_points(read_graph(work.model)), LATENT)
    return named_cut(partition_cuts(work.model, "fp32"), name)


def refit_filter(work: Work) -> Work:
    """``work`` with the filter's threshold chosen on its model as it is now, and its segments made again."""
    (one,) = work.exits
    cut = filter_cut(work, one.cut)
    one = _measured(work, one, cut)
    if work.crossing is None:
        front, rest = split(work.model, cut)
    else:
        front, rest = onnx.ModelProto(), work.segments[1]
        front.CopyFrom(work.segments[0])
    attach(front, cut, one.head)
    error = composition_error(work.model, (front, rest), calibration_feeds(work.task))
    notes = (*work.notes, _note(one))
    return dataclasses.replace(work, exits=(one,), segments=(front, rest), composition_error=error, notes=notes)


def _measured(work: Work, one: ExitHead, cut: Cut) -> ExitHead:
    assert one.filtering is not None, "only a filter is measured here"
    watched = onnx.ModelProto()
    watched.CopyFrom(work.model)
    attach(watched, cut, one.head)
    confidence, _ = exit_names(0)
    found, held = seen(watched, work.task, "validation", confidence, one.filtering.interesting)
    found = found.reshape(-1)
    threshold = raised(least_confidence(found, held, one.filtering.least_recall), one.filtering.margin)
    dropped = found >= threshold
    left = dropped
    if work.task.boxes is not None:
        left = answers(watched, work.task, "validation")[confidence].reshape(-1) >= threshold
    filtering = msgspec.structs.replace(
        one.filtering,
        roc_auc=area_under_curve(found, held),
        dropped_frac=float(dropped.mean()),
        empty_dropped_frac=float(dropped[~held].mean()),
        lost_frac=float(dropped[held].mean()),
    )
    return dataclasses.replace(one, threshold=threshold, left_frac=float(left.mean()), filtering=filtering)


def least_confidence(found: Floats, held: Flags, least_recall: float) -> float:
    """The lowest threshold that drops at most ``1 - least_recall`` of the views that hold something.

    Args:
        found: Confidence that a view holds nothing, [n].
        held: Whether it does hold something, [n], at least one.
        least_recall: In (0, 1].
    """
    ranked = np.sort(found[held])[::-1]
    # The slack keeps 100 * (1 - 0.99) one whole view.
    lost = min(math.floor((1 - least_recall) * len(ranked) + 1e-9), len(ranked) - 1)
    return float(np.nextafter(ranked[lost], np.float32(np.inf), dtype=np.float32))


def raised(threshold: float, margin: float) -> float:
    """A threshold of a confidence in [0, 1], its logit ``margin`` higher."""
    if margin == 0 or not 0 < threshold < 1:
        return threshold
    logit = math.log(threshold) - math.log1p(-threshold) + margin
    # Never 1: what a float32 cannot tell from certain is to be dropped still.
    return min(1 / (1 + math.exp(-logit)), float(np.nextafter(np.float32(1), np.float32(0))))


def area_under_curve(found: Floats, held: Flags) -> float:
    """ROC-AUC of finding what holds something: the share of pairs in the right order, ties by half (Mann-Whitney)."""
    empty = np.sort(found[~held])
    below = np.searchsorted(empty, found[held], "left")
    not_above = np.searchsorted(empty, found[held], "right")
    return float(1 - (below + not_above).mean() / (2 * len(empty)))


def _note(one: ExitHead) -> str:
    found = one.filtering
    assert found is not None
    assert found.roc_auc is not None
    assert found.dropped_frac is not None
    assert found.empty_dropped_frac is not None
    assert found.lost_frac is not None
    return (
        f"filter: {found.parameters:,} parameters and {found.macs:,} multiply-accumulates at {one.cut}; on the "
        f"{found.views} of the validation split ROC-AUC {found.roc_auc:.4f}, {100 * found.dropped_frac:.1f} % dropped "
        f"({100 * found.empty_dropped_frac:.1f} % of those without interest), {100 * found.lost_frac:.2f} % of recall "
        f"lost (threshold {one.threshold:.4g})"
    )
