"""Static post-training quantisation: 8-bit weights and activations with ranges seen on the calibration split."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, ClassVar

import msgspec
import onnx

from tierwise._config import Spec
from tierwise.measure import isa
from tierwise.operators._calibration import Method
from tierwise.operators._crossing import neighbours, refitted
from tierwise.operators._exits import refit
from tierwise.operators._quantise import (
    Isa,
    Scheme,
    behind_the_arithmetic,
    calibration_ranges,
    has_attention,
    integer_types,
    prepared,
    quantised,
    quantiser_errors,
)
from tierwise.operators._sensitivity import back_to_float
from tierwise.operators._work import Context, Stage, Work

__all__ = ["StaticPTQ", "resolve_static_ptq", "static_ptq"]


class StaticPTQ(Spec, frozen=True, kw_only=True, tag="sptq", tag_field="op"):
    """Quantise the exported model with ONNX Runtime (QDQ form).

    Attributes:
        items: Calibration items to use, from the start of the calibration split.
        per_channel: One weight scale per output channel instead of one per tensor.
        isa: Instruction set of the machines that will run it; it decides the integer types:
            ``x86-vnni``: unsigned activations, signed weights (the pair the VNNI instructions multiply);
            ``x86``: the same with 7-bit weights, since two products of full range overflow the 16-bit sum there;
            ``arm64``: both signed; ``auto``: that of the machine that builds.
        calibration: How ranges of activations follow from the calibration items: ``min-max``, ``percentile`` or
            ``entropy`` (see `tierwise.operators._calibration`).
        percentile: Share of values, in percent, that the range of ``percentile`` holds.
        max_drop_frac: How much of the task's metric may be lost on the validation split, as a difference (0.01 is one
            point). Where more is lost, the most sensitive layers go back to float until it holds. None: whatever it is.
    """

    NAME: ClassVar[str] = "sptq"
    STAGE: ClassVar[Stage] = Stage.QUANTISE
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    REVISION: ClassVar[int] = 3

    items: Annotated[int, msgspec.Meta(gt=0)] = 128
    per_channel: bool = True
    isa: Isa = "auto"
    calibration: Method = "min-max"
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99
    max_drop_frac: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None


def resolve_static_ptq(spec: StaticPTQ) -> StaticPTQ:
    """``spec`` with the instruction set named."""
    return msgspec.structs.replace(spec, isa=isa()) if spec.isa == "auto" else spec


def static_ptq(spec: StaticPTQ, work: Work, context: Context) -> Work:
    """Quantise ``work.model``.

    Convolutional models are quantised throughout. In models with attention only the matrix products are: their masks
    hold values near the lowest float, which would leave no resolution for the scores they are added to.

    Raises:
        InputError: The calibration split is empty, or ONNX Runtime cannot quantise the model; with ``max_drop_frac``,
            also where the validation split is empty.
    """
    spec = resolve_static_ptq(spec)
    scheme = Scheme(isa=spec.isa, per_channel=spec.per_channel, products_only=has_attention(work.model))
    started = time.process_time()
    with quantiser_errors(work.task, "sptq"):
        model, notes = _quantised(spec, scheme, work, context)
    done = dataclasses.replace(
        work,
        model=model,
        history=(*work.history, spec),
        notes=(*work.notes, *notes),
        training_s=work.training_s + time.process_time() - started,
    )
    if done.crossing is not None:
        done = refitted(done)
    return refit(done) if done.exits else done


def _quantised(
    spec: StaticPTQ, scheme: Scheme, work: Work, context: Context
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    count = min(spec.items, len(work.task.splits["calibration"]))
    with context.progress.step("quantise", count) as advance:
        floating = prepared(work.model, context.folder)
        ranges = calibration_ranges(floating, work.task, spec.items, spec.calibration, spec.percentile, advance)
        latent = neighbours(floating) if work.crossing is not None else ()
        # Scores and sides of boxes share one tensor but no range, and ONNX Runtime's integer softmax overflows at 1.
        boxes = behind_the_arithmetic(floating) if work.task.boxes is not None else ()
        apart = (*latent, *boxes)
        model = quantised(floating, ranges, scheme, floating=apart, scopes=work.model)
    how = f"{spec.percentile:g}th percentile" if spec.calibration == "percentile" else spec.calibration
    note = f"sptq: {integer_types(spec.isa)[2]} for {spec.isa}, {how} ranges from {count} calibration items"
    if scheme.products_only:
        note += "; matrix products only, because the model has attention masks"
    if latent:
        note += "; what makes and what reads the latent stays in float"
    if boxes:
        note += "; what joins the boxes stays in float"
    if spec.max_drop_frac is None:
        return model, (note,)
    model, notes = back_to_float(model, floating, ranges, scheme, work, spec.max_drop_frac, context.progress, apart)
    return model, (note, *notes)
