"""Training on from a model that is there, for operators; torch comes when it is called."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import msgspec

from tierwise._errors import InputError, SpecError
from tierwise.artifact import ImageInput, InputEncoding
from tierwise.measure import Progress, usable_cpus
from tierwise.tasks._spec import Bert, FastestDet, Roberta, Subject, Training
from tierwise.tasks._start import open_start, started
from tierwise.tasks._subject import build_subject
from tierwise.tasks._task import Task
from tierwise.tasks._tokenizer import vocabulary_of

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Tuned", "answer", "build_student", "fine_tune", "settled", "task_loss", "training_threads"]

_SMALL_PIXELS = 256
"""Up to this size a training step is so short that a second thread saves nothing, and on a busy machine, where threads
wait for each other spinning, makes it many times slower."""


@final
@dataclass(frozen=True)
class Tuned:
    """A finished training.

    Attributes:
        module: The model with the weights of its best epoch, in eval mode.
        history: The task's metric on the validation split after each epoch.
        training_s: CPU seconds, over all processes that took part.
    """

    module: nn.Module
    history: tuple[float, ...]
    training_s: float


def fine_tune(
    module: nn.Module,
    task: Task,
    spec: Training,
    *,
    folder: Path,
    progress: Progress,
    seed: int = 0,
    objective: Callable[[nn.Module, dict[str, torch.Tensor], torch.Tensor], torch.Tensor] | None = None,
    before_epoch: Callable[[int, nn.Module], None] | None = None,
    title: str | None = None,
    threads: int | None = None,
    schedule: Callable[[int, int], float] | None = None,
    keep_last: bool = False,
) -> Tuned:
    """Train ``module`` on from its weights with the loop of the built-in subjects.

    Sees the train split, keeps the epoch that is best on the validation split, opens no other. Stopped at any moment,
    the next call with the same ``folder`` goes on from the last finished epoch and reaches the same weights (with the
    same number of threads); a finished training is read back.

    Args:
        module: What to train; changed in place.
        task: Gives splits and preprocessing.
        spec: How to train; with 0 epochs the module comes back as it is.
        folder: Weights and the running state are kept there, one training in one folder.
        progress: Shows the steps.
        seed: Root of order, augmentation and dropout.
        objective: Gives the loss of (model, batch of its inputs by name, labels); `answer` runs the model on a batch.
            None is the cross entropy. An objective that is a torch module is trained and kept along with the model.
        before_epoch: Called with the number of the epoch, from 0, and the model, also after a stop. What it changes
            must follow from the number alone.
        title: What the progress calls it.
        threads: Threads of torch; None lets the size of the task decide.
        schedule: Share of the learning rate at a step, counted from 0, of so many; None is the loop's own.
        keep_last: Keep the last epoch instead of the best, for losses that the metric does not show.
    """
    from tierwise.tasks._training import run_training

    if spec.epochs == 0:
        return Tuned(module.eval(), (), 0.0)
    trained, remarks = run_training(
        module,
        task,
        spec,
        seed=seed,
        folder=folder,
        progress=progress,
        threads=threads or training_threads(task.encoding),
        objective=objective,
        before_epoch=before_epoch,
        title=title,
        schedule=schedule,
        keep_last=keep_last,
    )
    return Tuned(trained, tuple(remarks["history"]), remarks["seconds"])


def task_loss(task: Task) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of (answer, labels) that the labels of ``task`` call for: cross entropy, or that of boxes.

    Raises:
        InputError: The task's detector answers in a form that no loss is known for.
    """
    if task.boxes is not None:
        from tierwise.tasks._detection_loss import boxes_loss

        return boxes_loss(task.boxes, len(task.labels))
    from torch.nn.functional import cross_entropy

    return cross_entropy


def settled(spec: Training) -> Training:
    """``spec`` with the precision named that ``auto`` means on this machine; such a spec names a result."""
    if spec.precision != "auto":
        return spec
    from tierwise.tasks._training import bfloat16_is_fast

    return msgspec.structs.replace(spec, precision="bfloat16" if bfloat16_is_fast() else "float32")


def answer(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The first output of ``model`` for a batch of its inputs in their order, as the training loop runs it."""
    from tierwise.tasks._training import forward

    return forward(model, dict(batch))


def training_threads(encoding: InputEncoding) -> int:
    """How many threads of torch a training on such inputs can use; ``OMP_NUM_THREADS``, where set, is not exceeded."""
    if isinstance(encoding, ImageInput) and encoding.height * encoding.width <= _SMALL_PIXELS:
        return 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    most = int(allowed) if allowed.isdecimal() and int(allowed) else math.inf
    return max(1, int(min(usable_cpus(), most)))


def build_student(task: Task, subject: Subject) -> nn.Module:
    """An untrained module of ``subject`` that takes the inputs of ``task`` and answers its classes.

    Raises:
        InputError: A text subject for pictures or the reverse, or one that reads other tokens than the task makes.
        SpecError: A shape that the family does not have, or a start that cannot be used.
    """
    text = isinstance(subject, (Bert, Roberta))
    image = isinstance(task.encoding, ImageInput)
    if text == image:
        raise InputError(
            "the subject must take what the task sends",
            got=f"a {'text' if text else 'picture'} subject for {'pictures' if image else 'other inputs'}",
            where=f"task {task.name!r}",
        )
    if (task.boxes is not None) != isinstance(subject, FastestDet):
        raise InputError(
            "a detector must be made smaller by a detector, and nothing else by one",
            got=type(subject).__name__,
            where=f"task {task.name!r}",
        )
    own = task.subject
    if isinstance(subject, (Bert, Roberta)):
        if not isinstance(own, type(subject)):
            raise SpecError(
                "a text subject must be of the family of the task's own, which made the tokens",
                got=type(subject).__name__,
                where=f"task {task.name!r}",
            )
        subject = started(subject)
        for key in ("vocabulary", "max_length"):
            if getattr(subject, key) != getattr(own, key):
                raise SpecError(
                    f"the {key} of a text subject must be the task's own, {getattr(own, key)}",
                    got=getattr(subject, key),
                    where=f"task {task.name!r}",
                )
        if subject.start is not None:
            _check_tokens(task, subject.start)
    channels = task.encoding.channels if isinstance(task.encoding, ImageInput) else 3
    return build_subject(subject, classes=len(task.labels), channels=channels)


def _check_tokens(task: Task, start: str) -> None:
    """A student's own start must number its tokens as the task does."""
    own, other = (
        vocabulary_of(content, where)
        for content, where in ((task.files["tokenizer.json"], task.name), (open_start(start).tokenizer(), start))
    )
    if own != other:
        raise SpecError(
            "the start of a text student must have the tokens of the task",
            got=f"{len(other)} tokens, {len(set(own.items()) ^ set(other.items()))} differences",
            where=f"task {task.name!r}, start {start!r}",
        )
