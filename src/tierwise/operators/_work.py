"""What flows through a chain of operators, and what they may use on the way."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from tierwise._errors import InputError
from tierwise.capture import Cut
from tierwise.measure import Progress, Silent
from tierwise.tasks import Task

if TYPE_CHECKING:
    import onnx
    import torch

    from tierwise.operators._blueprint import Blueprint
    from tierwise.operators._crossing import Crossing
    from tierwise.operators._exit import ExitHead
    from tierwise.operators._spec import OperatorSpec

__all__ = ["ChooseCuts", "Context", "Stage", "Work"]

ChooseCuts = Callable[[tuple[Cut, ...], int], tuple[Cut, ...]]
"""Picks so many of a model's cuts; the cost model does it, so that operators know nothing of costs."""


@final
class Stage(enum.IntEnum):
    """When in a chain an operator stands; a chain never goes back."""

    ALONE = 0
    """Stands for the model as it is; takes no company."""
    TRAIN = 1
    """Changes or trains the torch module; several may follow each other."""
    NARROW = 2
    """Replaces the front of the trained model by a narrow one; one at most."""
    EXIT = 3
    """Adds exits to the trained model; one at most."""
    QUANTISE = 4
    """Makes the integer model; one at most."""
    SPLIT = 5
    """Cuts the finished model; one at most, and the last."""


@final
@dataclass(frozen=True)
class Work:
    """A model on its way through a chain. Operators take one and return another.

    Attributes:
        task: What the model is for.
        model: The model as ONNX, uncut, with a free batch axis.
        module: Gives the torch module that ``model`` was exported from; None where there is no source.
        segments: The parts in order, once the model is cut or has exits; else empty.
        history: Resolved specs of the operators that made it, in order.
        notes: Remarks for the reader of a report.
        training_s: CPU seconds of training and calibration so far.
        composition_error: See `tierwise.artifact.Provenance`.
        exits: Exits at the borders between the first segments.
        crossing: How the latent between two segments is coded; None where there is none.
        blueprint: How the torch module is built, where an operator changed it; None where it is the task's own.
    """

    task: Task
    model: onnx.ModelProto
    module: Callable[[Progress], torch.nn.Module] | None
    segments: tuple[onnx.ModelProto, ...] = ()
    history: tuple[OperatorSpec, ...] = ()
    notes: tuple[str, ...] = ()
    training_s: float = 0.0
    composition_error: float | None = None
    blueprint: Blueprint | None = None
    exits: tuple[ExitHead, ...] = ()
    crossing: Crossing | None = None

    def torch_module(self, operator: str, progress: Progress) -> torch.nn.Module:
        """The torch module, for operators that train.

        Raises:
            InputError: The task came as ONNX without its source.
        """
        if self.module is None:
            raise InputError(
                f"the operator {operator!r} needs the torch model",
                got="a task that came as an ONNX file",
                where=f"task {self.task.name!r}",
                fix="Bring the task by module:function with its torch model, or use operators that work on ONNX "
                "(identity, sptq, partition)",
            )
        return self.module(progress)


@final
@dataclass(frozen=True)
class Context:
    """What an operator may use.

    Attributes:
        folder: An empty folder for temporary files, removed afterwards.
        progress: Where to say how far it is.
        choose_cuts: Picks the cuts of a partition that was not given any.
        keep: A folder that outlives a kill, for the state of a training; the next build of the same chain finds it
            again, and it goes when the operator is done. While a spec is resolved, it is a folder that stays for good,
            for what was measured. Without one, ``folder`` serves.
    """

    folder: Path
    progress: Progress = Silent()  # noqa: RUF009 - stateless
    choose_cuts: ChooseCuts | None = None
    keep: Path | None = None

    @property
    def lasting(self) -> Path:
        """Where a training keeps its state."""
        return self.folder if self.keep is None else self.keep
