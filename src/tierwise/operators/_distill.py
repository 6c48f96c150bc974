"""Distillation: a smaller model learns from a larger one."""

from __future__ import annotations

import copy
import dataclasses
from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from torch import nn

from tierwise._config import Spec
from tierwise._errors import InputError, SpecError
from tierwise._seeds import stream_seed
from tierwise.operators._blueprint import Blueprint, built, retrained
from tierwise.operators._distillation import Distillation, matching_layers
from tierwise.operators._inheritance import Inheritance, inherit
from tierwise.operators._students import derive, tuning
from tierwise.operators._widths import count_macs
from tierwise.operators._work import Context, Stage, Work
from tierwise.tasks import Bert, ResNet, ResNeXt, Roberta, Subject, Training, fine_tune, started

__all__ = ["Distill", "distill", "resolve_distill"]

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Distill(Spec, frozen=True, kw_only=True, tag="distill", tag_field="op"):
    """Train a student by the answers of a teacher.

    Attributes:
        student: A built-in subject, which learns from the model before it in the chain; ``derived``: the same with
            ``depth_frac`` and ``width_frac`` of that model; ``given``: the model before it learns from the task's own;
            ``auto``: ``given`` after pruning, else ``derived``.
        start: Weights that the student starts from. ``teacher``: the teacher's, with evenly spaced layers left out,
            which needs a student of the same width (Sanh et al. 2019, arXiv 1910.01108). ``own``: what it has, as a
            student that is given or that names a start. ``random``: seeded ones. ``auto``: ``own`` where it has some,
            else ``teacher`` where it fits, else ``random``.
        depth_frac: Share of the layers that a derived student has.
        width_frac: Share of the channels that a derived student has.
        temperature: T, by which answers are softened.
        soft_frac: Share of the teacher's answers in the loss; the rest is the labels'.
        feature_weight: Weight of the distance between inner features; 0 compares answers only.
        features: Pairs of module paths (teacher, student) to compare; none takes three at equal depth.
        training: The student's training; None takes that of the task's model (a part of it for ``given``).
        seed: Root of initial weights and order.
    """

    NAME: ClassVar[str] = "distill"
    STAGE: ClassVar[Stage] = Stage.TRAIN
    NEEDS_TORCH: ClassVar[bool] = True
    PACKAGES: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")
    REVISION: ClassVar[int] = 1

    student: Subject | Literal["auto", "derived", "given"] = "auto"
    start: Literal["auto", "teacher", "own", "random"] = "auto"
    depth_frac: Share = 1.0
    width_frac: Share = 0.5
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    soft_frac: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7
    feature_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    features: tuple[tuple[str, str], ...] = ()
    training: Training | None = None
    seed: int = 0


def resolve_distill(spec: Distill, work: Work) -> Distill:
    """``spec`` with the student and its training named.

    Raises:
        InputError: No student can be derived for this task; the message says what to give.
        SpecError: Features without a weight.
    """
    if spec.features and spec.feature_weight == 0:
        raise SpecError("features need a weight", where="distill.feature_weight", fix="Set it above 0, or name none")
    student = spec.student
    if student == "auto":
        student = "given" if any(past.NAME == "prune" for past in work.history) else "derived"
    if student == "derived":
        student = _derived(spec, work)
    if isinstance(student, (Bert, Roberta)):
        student = started(student)
    start = _start(spec.start, student, work)
    part = 0.5 if student == "given" else 1.0
    training = tuning(spec.training, work.task, epochs_frac=part, rate_frac=part)
    return msgspec.structs.replace(spec, student=student, start=start, training=training)


def _start(
    asked: Literal["auto", "teacher", "own", "random"], student: Subject | str, work: Work
) -> Literal["teacher", "own", "random"]:
    """Where the student's weights come from.

    Raises:
        SpecError: A student without weights shall start from its own, or one that has them from others.
    """
    has_own = student == "given" or (isinstance(student, (Bert, Roberta)) and student.start is not None)
    if asked == "auto":
        return "own" if has_own else "teacher" if _is_shortened(student, work) else "random"
    if has_own != (asked == "own"):
        raise SpecError(
            "a student that is given or names a start has its own weights, and no other has",
            got=f"start = {asked!r}",
            where="distill.start",
            fix="Leave it on auto",
        )
    return asked


def _is_shortened(student: Subject | str, work: Work) -> bool:
    """Whether ``student`` is the subject of ``work`` with fewer layers."""
    own = _subject(work)
    if work.blueprint is not None and work.blueprint.sizes:
        return False
    if isinstance(student, (Bert, Roberta)) and isinstance(own, (Bert, Roberta)):
        layers, hidden = own.shape
        return (
            type(student) is type(own)
            and (hidden, own.heads) == (student.shape[1], student.heads)
            and (student.shape[0] < layers)
        )
    if isinstance(student, (ResNet, ResNeXt)) and isinstance(own, type(student)):
        return student.depth < own.depth and student == msgspec.structs.replace(own, depth=student.depth)
    return False


def _subject(work: Work) -> Subject | None:
    """The built-in family that the model in ``work`` is of."""
    changed = work.blueprint.subject if work.blueprint is not None else None
    return changed or work.task.subject


def _derived(spec: Distill, work: Work) -> Subject | Literal["derived"]:
    subject = _subject(work)
    if subject is not None:
        return derive(subject, spec.depth_frac, spec.width_frac)
    if work.task.student is not None:
        return "derived"
    raise InputError(
        "a student can be derived only from a built-in subject or by the task's own function",
        got="a model of neither",
        where=f"task {work.task.name!r}",
        fix="Give Task(..., student=function), where function(depth_frac, width_frac) returns an untrained module, or "
        "let pruning make the student: prune+distill",
    )


def distill(spec: Distill, work: Work, context: Context) -> Work:
    """Build the student and let it learn; killed, the next call goes on from the last finished epoch.

    Raises:
        InputError: As `resolve_distill`, or features that the models do not have.
    """
    spec = resolve_distill(spec, work)
    task, example = work.task, work.task.example()
    before = work.torch_module(spec.NAME, context.progress)
    if spec.student == "given":
        own = task.model
        teacher = before if own is None else own(context.progress)
        blueprint = work.blueprint or Blueprint()
    else:
        teacher = before
        shares = (spec.depth_frac, spec.width_frac) if spec.student == "derived" else None
        blueprint = Blueprint(subject=spec.student if shares is None else None, shares=shares)  # type: ignore[arg-type]
    teacher = copy.deepcopy(teacher)
    training = tuning(spec.training, task, epochs_frac=1.0, rate_frac=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(spec.seed, "student"))
        student = copy.deepcopy(before) if spec.student == "given" else built(task, blueprint, context.progress)
        inheritance = _inherited(teacher, student) if spec.start == "teacher" else None
        layers = spec.features
        if spec.feature_weight > 0 and not layers:
            layers = matching_layers(teacher, student)
        objective = Distillation(
            teacher,
            temperature=spec.temperature,
            soft_frac=spec.soft_frac,
            feature_weight=spec.feature_weight,
            layers=layers,
            student=student,
            example=example,
        )
    tuned = fine_tune(
        student,
        task,
        training,
        folder=context.lasting / "student",
        progress=context.progress,
        seed=spec.seed,
        objective=objective,
        title=f"distil {task.name}",
    )
    note = _note(spec, teacher, tuned.module, example, inheritance)
    done = retrained(work, context, tuned.module, blueprint, notes=(note,), training_s=tuned.training_s)
    return dataclasses.replace(done, history=(*work.history, spec))


def _inherited(teacher: nn.Module, student: nn.Module) -> Inheritance:
    """What the student takes over of the teacher, in place.

    Raises:
        InputError: The teacher's weights do not fit.
    """
    found = inherit(teacher, student)
    if found is None:
        raise InputError(
            "a student must be its teacher with fewer layers to start from its weights",
            got=f"{type(student).__name__} of another shape, or of as many layers",
            where="distill.start",
            fix="Derive it with depth_frac below 1 and width_frac = 1, or let it start at random",
        )
    return found


def _note(
    spec: Distill,
    teacher: nn.Module,
    student: nn.Module,
    example: dict[str, torch.Tensor],
    inheritance: Inheritance | None,
) -> str:
    parameters = [sum(p.numel() for p in module.parameters()) for module in (student, teacher)]
    macs = [count_macs(module, example) for module in (student, teacher)]
    who = "the model before it in the chain" if spec.student == "given" else "a student of its own shape"
    if inheritance is not None:
        who += f" that starts from its layers, {inheritance.words},"
    features = f", features weighted {spec.feature_weight:g}" if spec.feature_weight else ""
    return (
        f"distill: {who} with {100 * macs[0] / max(1, macs[1]):.0f} % of the teacher's arithmetic and "
        f"{100 * parameters[0] / parameters[1]:.0f} % of its parameters, T = {spec.temperature:g}, "
        f"{100 * spec.soft_frac:.0f} % soft answers{features}"
    )
