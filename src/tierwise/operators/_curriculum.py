"""The lessons of a bottleneck together: what is asked of all of them, and what cannot be taught."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tierwise._errors import InputError, SpecError
from tierwise.codecs import CodecKind
from tierwise.operators._lesson import Lesson
from tierwise.operators._narrowed import stops_at_the_cut
from tierwise.tasks import Task, task_loss

__all__ = ["check_lessons", "check_reach", "check_unlabelled", "settled_lessons"]


def settled_lessons(lessons: Sequence[Lesson], rate: float | None, epochs_frac: float) -> tuple[Lesson, ...]:
    """The lessons with the wished weight of a bit, in the proportions they have, and share of their epochs."""
    first = next((lesson.rate for lesson in lessons if lesson.rate > 0), 0.0)
    wished = first if rate is None else rate
    return tuple(
        msgspec.structs.replace(
            lesson,
            rate=wished * (lesson.rate / first) if first else 0.0,
            epochs=max(1, round(epochs_frac * lesson.epochs)),
        )
        for lesson in lessons
    )


def check_lessons(lessons: Sequence[Lesson], codec: CodecKind, rate: float | None, task: Task) -> None:
    """Whether the lessons fit the codec and the task.

    Args:
        lessons: As `settled_lessons` gives them.
        codec: Of the latent.
        rate: The weight of a bit that was asked for; None: none was.
        task: What is taught.

    Raises:
        InputError: The task has not what a lesson asks for.
        SpecError: A lesson contradicts the codec, or has nothing to teach.
    """
    for lesson in lessons:
        _check(lesson, codec, task)
    priced = [lesson for lesson in lessons if lesson.rate > 0]
    if rate is not None and not priced:
        raise SpecError(
            "a weight of a bit needs a lesson with a rate of its own, which it replaces",
            got=f"rate = {rate:g} and no lesson with one",
            where="bottleneck.rate",
            fix="Take a preset with a prior (entropic-student, end-to-end), or give lessons with a rate",
        )
    if codec == "prior" and not any("encoder" in lesson.trains for lesson in priced):
        raise SpecError(
            "a prior is learnt by lessons that train the encoder and price its bits",
            got="no such lesson",
            where="bottleneck.codec",
            fix='Give such a lesson a rate, or set codec = "affine"',
        )


def _check(lesson: Lesson, codec: CodecKind, task: Task) -> None:
    if lesson.soft > 0 and task.boxes is not None:
        raise InputError(
            "a detector's lessons must do without soft answers, which are scores of classes",
            got=f"soft = {lesson.soft:g}",
            where=f"task {task.name!r}",
            fix="Take preset hnd, ghnd, autoencoder or end-to-end, or lessons of features and cross_entropy",
        )
    if lesson.rate > 0 and codec != "prior":
        raise SpecError(
            "only a prior knows what a bit costs", got=f"rate with codec {codec!r}", where="bottleneck.lessons"
        )
    by_features = bool(lesson.features) and lesson.features_weight > 0
    if not (by_features or lesson.cross_entropy or lesson.soft) or not lesson.trains:
        raise SpecError(
            "a lesson must train something by features, cross_entropy or soft", got="none", where="bottleneck.lessons"
        )
    if lesson.cross_entropy > 0:
        task_loss(task)  # says so where there is none


def check_reach(lessons: Sequence[Lesson]) -> None:
    """Whether each lesson, with its tensors named, can teach something that it trains.

    Raises:
        SpecError: One compares features at the cut alone and trains only what stands behind it.
    """
    for number, lesson in enumerate(lessons):
        if stops_at_the_cut(lesson) and "tail" in lesson.trains and len(lesson.trains) == 1:
            raise SpecError(
                "features at the cut can teach the encoder and the decoder, not the tail behind it",
                got='trains = ["tail"], features = "cut"',
                where=f"bottleneck.lessons[{number}]",
                fix='Take features = "all", or a loss of answers',
            )


def check_unlabelled(lessons: Sequence[Lesson]) -> None:
    """Whether a lesson sees pictures without labels.

    Raises:
        SpecError: All of them ask for labels.
    """
    if all(lesson.cross_entropy > 0 for lesson in lessons):
        raise SpecError(
            "pictures without labels need a lesson without cross_entropy, which alone sees them",
            got="none",
            where="bottleneck.unlabelled",
        )
