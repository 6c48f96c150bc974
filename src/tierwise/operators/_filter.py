"""A neural filter: a tiny classifier on early features drops items that hold nothing of interest."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import onnx

from tierwise._config import Spec
from tierwise._errors import InputError, SpecError
from tierwise.artifact import Filtering, TensorSpec
from tierwise.operators._crossing import LATENT
from tierwise.operators._exit import NEVER, ExitHead
from tierwise.operators._exit_head import Parts, features_graph, trained_layers
from tierwise.operators._filter_head import filter_model, nothing_answer
from tierwise.operators._filter_margin import Layers, held_out, logits, margin
from tierwise.operators._filtering import Flags, Floats, area_under_curve, filter_cut, refit_filter
from tierwise.operators._partition import named_cut, partition_cuts
from tierwise.operators._views import OVERLAPPING, seen, view_items, views_hold
from tierwise.operators._work import Context, Stage, Work
from tierwise.tasks import Task

__all__ = ["Filter", "filter_empty", "resolve_filter"]

_FOLDS = 5


class Filter(Spec, frozen=True, kw_only=True, tag="filter", tag_field="op"):
    """Answer "nothing" on the device where a picture holds nothing (Matsubara and Levorato 2021, arXiv 2007.15818).

    The model itself stays as it is. Behind a bottleneck the filter reads the latent, and is the rate of zero bytes: the
    encoder has replaced the features that the paper's filter reads, so it has run by then, and only bytes and the
    server's work are spared.

    Attributes:
        interesting: Classes that are of interest; for detection none, since every box is.
        background: Class that is answered for an item that is dropped. Empty: the first that is not of interest; for
            detection the answer has no boxes.
        cut: Where it reads: a tensor, label or module path (`tierwise.capture.find_cut`). ``auto``: the latent where
            there is one, else the cut nearest to ``head_frac`` of the arithmetic at which it is small enough.
        head_frac: Share of the arithmetic before the filter, where no cut is named.
        least_recall: Share of the items of interest that must pass, on the validation split; it decides the threshold.
        pool: How a picture's features are gathered. ``fields``: averaged over ``grid`` fields each way. ``peaks``: the
            average and the largest value of each channel over the whole picture, since a thing may be small and stand
            anywhere. ``auto``: peaks for detection, else fields.
        grid: Fields each way.
        width: Hidden units, at most; fewer where the limits below ask for it.
        most_parameters: Limit on the classifier's size.
        most_macs_frac: Limit on its arithmetic, as a share of what lies before it.
        epochs: Passes over the train split's features.
        folds: Parts of the train split for the threshold: as many classifiers, each learning from all parts but one,
            say what recall to expect on scenes that nobody learnt from, and raise the threshold where the validation
            split shows too few. 0: by the validation split alone. None: 5 for detection, else 0.
        seed: Root of its weights and order.
    """

    NAME: ClassVar[str] = "filter"
    STAGE: ClassVar[Stage] = Stage.EXIT
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "torch")
    REVISION: ClassVar[int] = 3

    interesting: tuple[str, ...] = ()
    background: str = ""
    cut: str = "auto"
    head_frac: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.25
    least_recall: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.99
    pool: Literal["auto", "fields", "peaks"] = "auto"
    grid: Annotated[int, msgspec.Meta(gt=0)] = 4
    width: Annotated[int, msgspec.Meta(gt=0)] = 32
    most_parameters: Annotated[int, msgspec.Meta(gt=0)] = 10_000
    most_macs_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    epochs: Annotated[int, msgspec.Meta(gt=0)] = 30
    folds: Annotated[int, msgspec.Meta(ge=0)] | None = None
    seed: int = 0


def resolve_filter(spec: Filter, work: Work) -> Filter:
    """``spec`` with its classes, its pooling, its cut and its width named.

    Raises:
        SpecError: The classes of interest do not fit the task, or there is a single fold.
        InputError: The model has several outputs or no cut at which a filter is small enough, or not by that name.
    """
    if len(work.task.outputs) != 1:
        raise InputError(
            "a filter needs a model with one output",
            got=", ".join(work.task.outputs),
            where=f"task {work.task.name!r}",
        )
    spec = _with_classes(spec, work.task)
    if spec.pool == "auto":
        spec = msgspec.structs.replace(spec, pool="fields" if work.task.boxes is None else "peaks")
    if spec.folds is None:
        spec = msgspec.structs.replace(spec, folds=0 if work.task.boxes is None else _FOLDS)
    if spec.folds == 1:
        raise SpecError("folds must be 0, or at least 2", got=1, where="filter.folds")
    if work.crossing is not None:
        if spec.cut not in ("auto", LATENT):
            raise InputError(
                "a filter behind a bottleneck must read the latent",
                got=repr(spec.cut),
                where="filter.cut",
                fix='Leave cut = "auto"',
            )
        chosen = filter_cut(work, LATENT)
    else:
        cuts = partition_cuts(work.model, "fp32")
        if spec.cut == "auto":
            cuts = tuple(cut for cut in cuts if cut.tensor.dtype == "FP32" and 2 <= len(cut.tensor.shape) <= 4)
            fitting = [cut for cut in cuts if _width(spec, cut.tensor, cut.head_macs) > 0]
            if not fitting:
                raise _too_large(spec, work.task)
            goal = spec.head_frac * (fitting[0].head_macs + fitting[0].tail_macs)
            # The last of those equally near: behind the activation, where features are cleanest.
            chosen = min(reversed(fitting), key=lambda cut: abs(cut.head_macs - goal))
        else:
            chosen = named_cut(cuts, spec.cut)
    width = _width(spec, chosen.tensor, chosen.head_macs)
    if width < 1:
        raise _too_large(spec, work.task)
    return msgspec.structs.replace(spec, cut=chosen.tensor.name, width=width)


def _too_large(spec: Filter, task: Task) -> InputError:
    return InputError(
        f"a filter must have at most {spec.most_parameters:,} parameters and {100 * spec.most_macs_frac:g} % of the "
        "multiply-accumulates before it",
        got="more, with a single hidden unit",
        where=f"task {task.name!r}, cut {spec.cut!r}",
        fix="Name a later cut, make grid smaller, or raise the limits",
    )


def _with_classes(spec: Filter, task: Task) -> Filter:
    if task.boxes is not None:
        if spec.interesting or spec.background:
            raise SpecError(
                "for detection every box must be of interest; leave classes out",
                got=[*spec.interesting, *([spec.background] if spec.background else [])],
                where="filter.interesting, filter.background",
            )
        return spec
    unknown = [name for name in (*spec.interesting, spec.background) if name and name not in task.labels]
    others = [name for name in task.labels if name not in spec.interesting]
    if unknown or not spec.interesting or not others:
        raise SpecError(
            f"the classes of interest must be some of {', '.join(task.labels)}, not all",
            got=", ".join(unknown or spec.interesting) or "none",
            where="filter.interesting",
        )
    if spec.background in spec.interesting:
        raise SpecError(
            "the answer for what is dropped must not be of interest", got=repr(spec.background), where="filter"
        )
    ranked = tuple(name for name in task.labels if name in spec.interesting)
    return msgspec.structs.replace(spec, interesting=ranked, background=spec.background or others[0])


def _features(tensor: TensorSpec, grid: int, *, peaks: bool) -> int:
    match len(tensor.shape):
        case 4 if peaks:
            return 2 * tensor.shape[1]
        case 4:
            fields = [size // (size // min(grid, size)) for size in tensor.shape[2:]]
            return tensor.shape[1] * math.prod(fields)
        case 3:
            return 2 * tensor.shape[2]
        case _:
            return math.prod(tensor.shape[1:])


def _width(spec: Filter, tensor: TensorSpec, head_macs: int) -> int:
    """The most hidden units within the limits; 0 where there is no room for one."""
    features = _features(tensor, spec.grid, peaks=spec.pool == "peaks")
    by_size = (spec.most_parameters - 1) // (features + 2)
    by_macs = math.floor(spec.most_macs_frac * head_macs) // (features + 1)
    return min(spec.width, by_size, by_macs)


def filter_empty(spec: Filter, work: Work, context: Context) -> Work:
    """Train the classifier and choose its threshold; the model itself is not changed.

    Raises:
        InputError: As `resolve_filter`, or a split has no items with, or none without, something of interest.
        SpecError: As `resolve_filter`.
    """
    spec = resolve_filter(spec, work)
    started, task = time.process_time(), work.task
    wanted = tuple(task.labels.index(name) for name in spec.interesting)
    tensor = filter_cut(work, spec.cut).tensor
    _check_views(task, wanted)
    if spec.folds and len(task.splits["train"]) < 2:
        raise InputError(
            "a filter that judges parts of the train split apart needs two items at least",
            got=len(task.splits["train"]),
            where=f"task {task.name!r}",
            fix="Set folds = 0, or raise train_items",
        )
    read = features_graph(tensor, "exit0", spec.grid, peaks=spec.pool == "peaks")
    layers, margin_logits, note = _learnt(spec, work, read, wanted, context)
    head = filter_model(work.model, tensor, read, layers, nothing_answer(work, spec.background))
    size = len(layers[0][0])
    filtering = Filtering(
        views="items" if task.boxes is None else "tiles",
        interesting=wanted,
        least_recall=spec.least_recall,
        parameters=(size + 1) * spec.width + spec.width + 1,
        macs=(size + 1) * spec.width,
        margin=margin_logits,
    )
    one = ExitHead(cut=tensor.name, head=head, threshold=NEVER, max_drop_frac=0.0, filtering=filtering)
    work = dataclasses.replace(work, exits=(one,), history=(*work.history, spec), notes=(*work.notes, *note))
    done = refit_filter(work)
    return dataclasses.replace(done, training_s=work.training_s + time.process_time() - started)


def _learnt(
    spec: Filter, work: Work, read: Parts, wanted: tuple[int, ...], context: Context
) -> tuple[Layers, float, tuple[str, ...]]:
    """The classifier's layers, the margin of its threshold, and a remark on that."""
    task, folds = work.task, spec.folds or 0
    model = onnx.ModelProto()
    model.CopyFrom(work.model)
    model.graph.node.extend(read[0])
    model.graph.initializer.extend(read[1])
    model.graph.output.append(onnx.ValueInfoProto(name=read[2]))
    with context.progress.step("train filter", spec.epochs * (1 + folds)) as advance:

        def learn(features: Floats, held: Flags) -> Layers:
            return trained_layers(
                features,
                held.astype(np.int64),
                classes=2,
                width=spec.width,
                epochs=spec.epochs,
                seed=spec.seed,
                advance=advance,
            )

        features, held = seen(model, task, "train", read[2], wanted, corners=OVERLAPPING)
        layers = learn(features, held)
        if not folds:
            return layers, 0.0, ()
        items = view_items(task, "train", corners=OVERLAPPING)
        others = held_out(features, held, items, folds=folds, learn=learn)
    judged, held_there = seen(model, task, "validation", read[2], wanted)
    found = margin((others, held), (logits(layers, judged), held_there), spec.least_recall)
    area = area_under_curve(others, held)
    remark = (
        f"filter: on {len(held)} views of the train split, each judged by a classifier that had not seen its part of "
        f"{folds}, ROC-AUC {area:.4f}; for them the threshold's logit is raised by {found:.3g}"
    )
    return layers, found, (remark,)


def _check_views(task: Task, wanted: tuple[int, ...]) -> None:
    """Both kinds must be there before any work is done."""
    for split in ("train", "validation"):
        held = views_hold(task, split, wanted)
        if held.all() or not held.any():
            raise InputError(
                f"a filter needs {split} items with and without something of interest",
                got=f"{int(held.sum())} with and {int((~held).sum())} without",
                where=f"task {task.name!r}",
            )
