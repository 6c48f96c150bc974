"""Quantisation-aware training: weights and ranges learnt with the rounding in place that the integer model will do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import onnx

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.measure import isa
from tierwise.operators._calibration import Method, Range
from tierwise.operators._distillation import Distillation
from tierwise.operators._exits import refit
from tierwise.operators._integer_module import IntegerModule
from tierwise.operators._quantise import (
    Isa,
    Scheme,
    calibration_ranges,
    has_attention,
    integer_types,
    prepared,
    quantised,
    quantiser_errors,
)
from tierwise.operators._session import validation_score
from tierwise.operators._work import Context, Stage, Work
from tierwise.tasks import Task, Training, fine_tune

__all__ = ["QAT", "qat", "resolve_qat"]

_SOFT_FRAC, _TEMPERATURE = 0.5, 2.0


class QAT(Spec, frozen=True, kw_only=True, tag="qat", tag_field="op"):
    """Quantise as `StaticPTQ` does, then train weights and ranges with the rounding in the forward pass.

    What is trained is the integer graph itself: its operators, fused as ONNX Runtime will fuse them, on float weights.
    The trained weights and ranges go back into that graph, so that all of it still runs in int8.

    Attributes:
        epochs: Passes over the train split.
        learning_rate: At its peak; a step moves a weight by about this share of the usual size of its row and column.
        batch: Items a step.
        train_items: Items of the train split to learn from, at most; None takes all. Little is to be learnt, and a
            step costs several times one of the task's own training, so that a part may do.
        items: As `StaticPTQ.items`, for the ranges training starts from.
        per_channel: As `StaticPTQ.per_channel`.
        isa: As `StaticPTQ.isa`.
        calibration: As `StaticPTQ.calibration`, for the ranges training starts from.
        percentile: As `StaticPTQ.percentile`.
        teach: Whether the float model teaches the integer one (half of the loss), beside the labels. What was trained
            well has little left to learn from its labels; how the float model answers shows what rounding took away.
        seed: Root of order and augmentation.
    """

    NAME: ClassVar[str] = "qat"
    STAGE: ClassVar[Stage] = Stage.QUANTISE
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "torch")
    REVISION: ClassVar[int] = 1

    epochs: Annotated[int, msgspec.Meta(gt=0)] = 3
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 5e-3
    batch: Annotated[int, msgspec.Meta(gt=0)] = 64
    train_items: Annotated[int, msgspec.Meta(gt=0)] | None = None
    items: Annotated[int, msgspec.Meta(gt=0)] = 128
    per_channel: bool = True
    isa: Isa = "auto"
    calibration: Method = "min-max"
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99
    teach: bool = True
    seed: int = 0


def resolve_qat(spec: QAT) -> QAT:
    """``spec`` with the instruction set named."""
    return msgspec.structs.replace(spec, isa=isa()) if spec.isa == "auto" else spec


def qat(spec: QAT, work: Work, context: Context) -> Work:
    """Train and quantise ``work.model``; works on ONNX, so that a task without torch source will do.

    Whichever scores better on the validation split is handed on: the trained model, or what training started from.

    Raises:
        InputError: The model has operators that cannot be trained or quantised, or the task has no items to train,
            calibrate or validate with.
    """
    spec = resolve_qat(spec)
    _check_splits(work.task)
    scheme = Scheme(isa=spec.isa, per_channel=spec.per_channel, products_only=has_attention(work.model))
    started = time.process_time()
    with quantiser_errors(work.task, "qat"):
        floating, ranges, before = _calibrated(spec, scheme, work, context)
    module = IntegerModule(before, floating, ranges, weight_limit=64 if spec.isa == "x86" else 127)
    spent = time.process_time() - started
    tuned = fine_tune(
        module,
        _limited(work.task, spec),
        _training(spec, work.task),
        folder=context.lasting / "qat",
        progress=context.progress,
        seed=spec.seed,
        objective=_taught(floating) if spec.teach else None,
        title=f"qat {work.task.name}",
    )
    started = time.process_time()
    after = quantised(module.trained_model(floating), _learned(floating, ranges, module), scheme, scopes=work.model)
    model, note = _better(before, after, work.task)
    spent += time.process_time() - started
    done = dataclasses.replace(
        work,
        model=model,
        history=(*work.history, spec),
        notes=(*work.notes, f"qat: {integer_types(spec.isa)[2]} for {spec.isa}, {_passes(spec)}; {note}"),
        training_s=work.training_s + spent + tuned.training_s,
    )
    return refit(done) if done.exits else done


def _taught(floating: onnx.ModelProto) -> Distillation:
    """The objective with the float graph as its teacher, which also a task without torch source has."""
    return Distillation(IntegerModule(floating, floating, {}, 127), temperature=_TEMPERATURE, soft_frac=_SOFT_FRAC)


def _check_splits(task: Task) -> None:
    for split in ("train", "calibration", "validation"):
        if len(task.splits[split]) == 0:
            raise InputError(
                f"quantisation-aware training needs {split} items",
                got="none",
                where=f"task {task.name!r}",
                fix="Bring them with the task, or use sptq, which needs calibration items only",
            )


def _calibrated(
    spec: QAT, scheme: Scheme, work: Work, context: Context
) -> tuple[onnx.ModelProto, dict[str, Range], onnx.ModelProto]:
    """The prepared float model, its ranges, and the quantised model that training starts from."""
    count = min(spec.items, len(work.task.splits["calibration"]))
    with context.progress.step("ranges to start from", count) as advance:
        floating = prepared(work.model, _made(context.folder / "prepare"))
        ranges = calibration_ranges(floating, work.task, spec.items, spec.calibration, spec.percentile, advance)
        return floating, ranges, quantised(floating, ranges, scheme, scopes=work.model)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _limited(task: Task, spec: QAT) -> Task:
    """``task`` with as much of its train split as asked for, chosen at random: a user's may be sorted by class."""
    train = task.splits["train"]
    if spec.train_items is None or spec.train_items >= len(train):
        return task
    chosen = stream(spec.seed, "train-items").permutation(len(train))[: spec.train_items]
    return dataclasses.replace(task, splits={**task.splits, "train": train.take(chosen)})


def _passes(spec: QAT) -> str:
    items = "" if spec.train_items is None else f" of {spec.train_items} items"
    return f"{spec.epochs} epoch{'' if spec.epochs == 1 else 's'}{items}"


def _training(spec: QAT, task: Task) -> Training:
    own = task.training
    return Training(
        epochs=spec.epochs,
        batch=spec.batch,
        learning_rate=spec.learning_rate,
        # Batch norms are folded: weights have the scale they need, and shrinking them is no regularisation.
        weight_decay=0.0,
        shift_pixels=own.shift_pixels if own is not None else 0,
        flip=own.flip if own is not None else False,
        # bfloat16 has as few digits as the rounding that is being learnt.
        precision="float32",
    )


def _learned(floating: onnx.ModelProto, ranges: Mapping[str, Range], module: IntegerModule) -> dict[str, Range]:
    """``ranges`` with what was learnt; a rectifier and what it rectifies share the range of the quantised tensor."""
    learnt = module.learned_ranges()
    merged = {**ranges, **learnt}
    for node in floating.graph.node:
        if node.op_type in ("Relu", "Clip"):
            pair = [name for name in (node.output[0], node.input[0]) if name in learnt]
            # Where both are quantised, the rectifier stands in the graph and each keeps its own.
            if len(pair) == 1:
                merged[node.output[0]] = learnt[pair[0]]
    return merged


def _better(before: onnx.ModelProto, after: onnx.ModelProto, task: Task) -> tuple[onnx.ModelProto, str]:
    untrained, trained = validation_score(before, task), validation_score(after, task)
    scores = f"validation {task.metric} {untrained:.4f} before training, {trained:.4f} after"
    if trained >= untrained:
        return after, scores
    return before, f"{scores}: training made it worse, so the model it started from is kept"
