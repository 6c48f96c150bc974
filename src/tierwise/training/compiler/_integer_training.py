"""Training of a model in integers, with and without quantisation-aware scaling; the reference backend, in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch

from tierwise._errors import InputError
from tierwise._seeds import stream_seed
from tierwise.artifact import Optimiser, Trained
from tierwise.measure import Progress, Silent
from tierwise.tasks import Task
from tierwise.training._feed import Feed
from tierwise.training._scheme import Scheme
from tierwise.training.compiler._integer import IntegerModel, quantise
from tierwise.training.compiler._model import Model, read_model
from tierwise.training.compiler._reference import Batch, Course, torch_optimiser
from tierwise.training.compiler._resolve import resolve

__all__ = ["IntegerCourse", "integer_gradients", "run_integer", "train_task_in_integers"]

_LIMIT = 127
_CALIBRATED = 64
Fraction = Literal["kept", "drawn"]


@final
@dataclass(frozen=True)
class IntegerCourse:
    """A task learnt in integers.

    Attributes:
        model: With what was learnt in its `tensors`.
        losses: Before each step.
    """

    model: IntegerModel
    losses: tuple[float, ...]


def integer_gradients(
    model: IntegerModel, tensors: Mapping[str, torch.Tensor], trained: Sequence[Trained], batch: Batch, *, scaled: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss, and gradients of the integers by parameter name.

    A weight w = s q has the gradient s G_w as an integer q, so a step is s squared too short beside it. Scaled, it is
    divided by that square: s is the weight's scale for weights and weight's times input's for biases (Lin et al.,
    equation 5).

    Args:
        model: In integers.
        tensors: All of its tensors, or what takes their place.
        trained: Of which gradients are wanted.
        batch: Inputs and labels.
        scaled: Whether gradients are scaled so.
    """
    inputs, labels = batch
    leaves = {one.name: tensors[one.name].detach().requires_grad_() for one in trained}
    loss = torch.nn.functional.cross_entropy(model(inputs, {**tensors, **leaves}), labels)
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    for one in trained:
        if one.channels:
            kept = torch.zeros_like(grads[one.name])
            kept[:, list(one.channels)] = grads[one.name][:, list(one.channels)]
            grads[one.name] = kept
        if scaled and one.name in model.scales:
            grads[one.name] = grads[one.name] / model.scales[one.name] ** 2
    return float(loss.detach()), grads


def run_integer(
    model: IntegerModel,
    trained: Sequence[Trained],
    how: Optimiser,
    batches: Sequence[Batch],
    steps: int,
    *,
    scaled: bool = True,
    fraction: Fraction = "kept",
    share: Callable[[int], float] | None = None,
    seed: int = 0,
) -> Course:
    """Train integers; batches are taken in turn.

    Args:
        model: Not changed.
        trained: What is trained.
        how: The optimiser; its rate is that of the integers, or where ``scaled`` of what they are worth.
        batches: Inputs and labels.
        steps: How many.
        scaled: Quantisation-aware scaling of gradients.
        fraction: What an update leaves behind the point. ``kept``: it is kept beside the integer and added to the next
            update, as in the authors' code. ``drawn``: nothing is kept; the integer is rounded up with the probability
            of the fraction, so that what is stored is 8 bits.
        share: Of the rate, in each step, counted from 0; None: all of it.
        seed: Of what is drawn.

    Raises:
        InputError: The loss became infinite.
    """
    tensors = {name: tensor.detach().clone() for name, tensor in model.tensors.items()}
    leaves = [tensors[one.name] for one in trained]
    update, generator = torch_optimiser(how, leaves), torch.Generator()
    generator.manual_seed(stream_seed(seed, "fraction"))
    losses = []
    for i in range(steps):
        loss, grads = integer_gradients(model, tensors, trained, batches[i % len(batches)], scaled=scaled)
        if not np.isfinite(loss):
            raise InputError(
                "the loss must stay finite",
                got=f"{loss} in step {i + 1}",
                where="optimiser.rate",
                fix="Use a smaller rate",
            )
        losses.append(loss)
        for group in update.param_groups:
            group["lr"] = how.rate * (1.0 if share is None else share(i))
        for one, leaf in zip(trained, leaves, strict=True):
            leaf.grad = grads[one.name]
        update.step()
        for one, leaf in zip(trained, leaves, strict=True):
            if one.name in model.scales:
                _store(leaf, fraction, generator)
    return Course(tuple(losses), {one.name: leaf for one, leaf in zip(trained, leaves, strict=True)})


def _store(leaf: torch.Tensor, fraction: Fraction, generator: torch.Generator) -> None:
    """What the memory for the integers holds behind a step. Biases have 32 bits: none of theirs is out of range."""
    if fraction == "drawn":
        leaf.add_(torch.rand(leaf.shape, generator=generator)).floor_()
    if leaf.ndim > 1:
        leaf.clamp_(-_LIMIT, _LIMIT)


def train_task_in_integers(
    module: torch.nn.Module,
    task: Task,
    scheme: Scheme,
    optimiser: Optimiser,
    *,
    batch: int = 16,
    steps: int = 100,
    scaled: bool = True,
    fraction: Fraction = "kept",
    seed: int = 0,
    progress: Progress | None = None,
) -> IntegerCourse:
    """Quantise ``module``, calibrated on the task's own calibration split, and train it on the train split.

    Equal arguments give equal weights.

    Args:
        module: Answers the task's classes; norms are folded here.
        task: With classes.
        scheme: What is trained.
        optimiser: How.
        batch: Items of a step.
        steps: How many.
        scaled: As in `run_integer`.
        fraction: As there.
        seed: Of the order of items, and of what is drawn.
        progress: Shows the steps.

    Raises:
        InputError: A task of boxes, a model that cannot be captured or quantised, or an infinite loss.
        SpecError: The scheme does not fit the model.
    """
    if task.boxes is not None:
        raise InputError("integer training needs a task with classes", got="boxes", where=task.name)
    progress = progress if progress is not None else Silent()
    with progress.step("quantising", None):
        model: Model = read_model(module, task.example())
        calibration = task.tensors(task.splits["calibration"].items[:_CALIBRATED])
        integers = quantise(model, [tuple(torch.from_numpy(np.array(a)) for a in calibration.values())])
        trained = resolve(scheme, model)
    with progress.step("training in integers", None):
        batches = _Batches(task, batch, steps, seed)
        course = run_integer(integers, trained, optimiser, batches, steps, scaled=scaled, fraction=fraction, seed=seed)
    learnt = IntegerModel(model, {**integers.tensors, **course.finals}, integers.scales, integers.grids)
    return IntegerCourse(learnt, course.losses)


@final
class _Batches(Sequence[Batch]):
    """One for each step, made when it is taken."""

    def __init__(self, task: Task, batch: int, steps: int, seed: int) -> None:
        self._task, self._split, self._steps = task, task.splits["train"], steps
        self._feed = Feed(len(self._split), batch, seed)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:  # type: ignore[override]
        chosen = self._split.take(self._feed.indices(step))
        inputs = tuple(torch.from_numpy(np.array(a)) for a in self._task.tensors(chosen.items).values())
        return inputs, torch.from_numpy(chosen.labels.astype(np.int64))
