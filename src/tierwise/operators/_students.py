"""Smaller relatives of a subject, and what operators that train start from."""

from __future__ import annotations

from typing import assert_never

import msgspec

from tierwise._errors import InputError
from tierwise.tasks import (
    Bert,
    DenseNet,
    FastestDet,
    FullSize,
    Inception,
    MobileNetV2,
    ResNet,
    ResNeXt,
    Roberta,
    Subject,
    Task,
    Training,
    settled,
)

__all__ = ["derive", "tuning"]

_CHANNELS = 8
_FALLBACK = Training(epochs=8, batch=64, learning_rate=2e-3)


def tuning(given: Training | None, task: Task, *, epochs_frac: float, rate_frac: float) -> Training:
    """How an operator trains: as asked for, else a part of the training that made the task's model; nothing on auto.

    Args:
        given: What the user asked for.
        task: Says how its model was trained; where it does not, a moderate training is assumed.
        epochs_frac: Share of its epochs; one at least.
        rate_frac: Share of its learning rate.
    """
    if given is not None:
        return settled(given)
    own = task.training if task.training is not None and task.training.epochs > 0 else _FALLBACK
    part = msgspec.structs.replace(
        own, epochs=max(1, round(own.epochs * epochs_frac)), learning_rate=own.learning_rate * rate_frac
    )
    return settled(part)


def derive(subject: Subject, depth_frac: float, width_frac: float) -> Subject:
    """The subject of the same family with these shares of depth and width, rounded to what the family has.

    Raises:
        InputError: The family has fixed shapes only, or nothing became smaller.
    """
    smaller: Subject
    match subject:
        case ResNet(depth=depth, width=width, block=block):
            smaller = msgspec.structs.replace(
                subject,
                depth=_depth(depth, 6 if block == "basic" else 9, depth_frac),
                width=_rounded(width * width_frac, _CHANNELS, width),
                start=None,
            )
            if (smaller.depth, smaller.width) == (depth, width):
                smaller = subject
        case ResNeXt(depth=depth, width=width, group_width=group_width):
            smaller = msgspec.structs.replace(
                subject,
                depth=_depth(depth, 9, depth_frac),
                width=_rounded(width * width_frac, _CHANNELS, width),
                group_width=max(1, round(group_width * width_frac)),
            )
        case MobileNetV2(width_frac=share):
            smaller = msgspec.structs.replace(subject, width_frac=max(0.05, share * width_frac))
        case DenseNet(depth=depth, growth=growth):
            smaller = msgspec.structs.replace(
                subject,
                depth=6 * max(1, round((depth - 4) // 6 * depth_frac)) + 4,
                growth=max(1, round(growth * width_frac)),
            )
        case Inception(width=width):
            smaller = msgspec.structs.replace(subject, width=_rounded(width * width_frac, 6, width))
        case FullSize(architecture=name):
            raise InputError(
                "the student of a network of published shape must be named",
                got=f"shares of {name}",
                where="distill",
                fix='For example student = {family = "full-size", architecture = "resnet18"}',
            )
        case Bert() | Roberta():
            layers, hidden = subject.shape
            shape = (max(1, round(layers * depth_frac)), _rounded(hidden * width_frac, hidden // subject.heads, hidden))
            # A smaller network does not fit the weights that its teacher started from.
            smaller = msgspec.structs.replace(subject, layers=shape[0], hidden=shape[1], start=None, start_sha256=None)
            if shape == subject.shape:
                smaller = subject
        case FastestDet(width=width):
            smaller = msgspec.structs.replace(subject, width=_rounded(width * width_frac, 4, width), start=None)
        case _:
            assert_never(subject)
    if smaller == subject:
        raise InputError(
            "a derived student must be smaller than its teacher",
            got=f"depth_frac = {depth_frac} and width_frac = {width_frac} of {msgspec.to_builtins(subject)}",
            where="distill",
            fix="Take smaller shares, or a wider teacher",
        )
    return smaller


def _depth(depth: int, step: int, share: float) -> int:
    return step * max(1, round((depth - 2) // step * share)) + 2


def _rounded(value: float, multiple: int, largest: int) -> int:
    return min(largest, max(multiple, multiple * int(value / multiple + 0.5)))
