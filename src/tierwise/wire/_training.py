"""Training on a node as it travels: what is asked, what is told, and the methods beside the protocol's.

Requests are a ``RepositoryModelLoadRequest`` (`Push`): the model's name, JSON as ``config``, a delta as a file. A batch
is a ``ModelInferRequest`` whose tensors are those of a request for inference and `LABELS`. Answers are a
``google.protobuf.BytesValue``: JSON, or a delta's file.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, final

import msgspec

from tierwise._config import Spec

__all__ = [
    "LABELS",
    "STEP",
    "TRAINING_SERVICE",
    "BatchTaken",
    "TrainingOrder",
    "TrainingProgress",
    "TrainingState",
    "TrainingStatus",
    "TrainingVerb",
]

TRAINING_SERVICE: Final = "tierwise.Training"
"""Tierwise's own gRPC service; its methods are ``Begin``, ``Batch``, ``Batches`` (a stream of batches, each answered),
``Status``, ``Save``, ``Swap``, ``Delta``, ``Apply`` and ``Stop``."""

LABELS: Final = "labels"
"""Name of the tensor of classes in a batch: whole numbers, [n]; [n, length] where a step learns tokens."""

STEP: Final = "tierwise.step"
"""Parameter of a batch: how many steps the sender believes were taken before it. A batch that would be another step is
refused, so that a client that goes on after a kill never has one learnt twice or left out."""

TrainingVerb = Literal["save", "swap", "delta", "apply", "stop"]

TrainingState = Literal["running", "restarting", "done", "stopped", "failed"]
"""``running``: it learns, or waits for batches. ``restarting``: its process ended and the next is on its way. ``done``:
all steps asked for were taken; it still hands out its delta. ``stopped``: it was told to. ``failed``: ``reason``
says why."""

Count = Annotated[int, msgspec.Meta(ge=0)]


@final
class TrainingOrder(Spec, frozen=True, kw_only=True):
    """How a node shall train a model that it serves.

    Attributes:
        rate: Learning rate; None: the compiled one.
        share_frac: Most of one CPU that training takes, on average.
        checkpoint_every: Steps between checkpoints.
        swap_every: Steps after which the served model takes over the weights, each time; None: only when asked.
        folder: Folder of pictures below the node's training folder, with a folder for each class; None: batches are
            sent.
        steps: Steps in all, resumed ones included, after which it is done; None: it has no end.
        seed: Of the order of a folder's items.
        lean: Take the least memory, some speed for it.
        feature_cache_bytes: Most memory for what the frozen part gives for a folder's items, so that it is computed for
            each of them once.
        fresh: Whether to begin from the artifact's weights though there is a checkpoint.
    """

    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    share_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
    checkpoint_every: Annotated[int, msgspec.Meta(ge=1)] = 50
    swap_every: Annotated[int, msgspec.Meta(ge=1)] | None = None
    folder: str | None = None
    steps: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    lean: bool = False
    feature_cache_bytes: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    fresh: bool = False


@final
class TrainingProgress(Spec, frozen=True, kw_only=True):
    """How far a training is.

    Attributes:
        steps: Steps taken since the artifact's weights, or since a delta was applied.
        saved_steps: Those that a kill does not undo.
        losses: Of the last steps, at most 20, oldest first.
        step_s: CPU time of a step, mean of the last; 0 before the first.
        used_frac: Share of one CPU that was used since the process began to train.
        done: Whether all steps asked for were taken.
    """

    steps: Count = 0
    saved_steps: Count = 0
    losses: tuple[float, ...] = ()
    step_s: float = 0.0
    used_frac: float = 0.0
    done: bool = False


@final
class TrainingStatus(Spec, frozen=True, kw_only=True):
    """What a node says about a training.

    Attributes:
        model: Name of the model.
        version: Its version.
        state: What it does.
        order: How it was asked to train.
        progress: How far it is.
        weights: Which weights answer: fingerprint, ``/``, steps. Empty: the artifact's own.
        restarts: How many times its process had to be started again.
        reason: Why it failed, or was started again.
    """

    model: str
    version: str
    state: TrainingState
    order: TrainingOrder
    progress: TrainingProgress = TrainingProgress()
    weights: str = ""
    restarts: Count = 0
    reason: str = ""


@final
class BatchTaken(Spec, frozen=True, kw_only=True):
    """The answer to a batch.

    Attributes:
        loss: Before the step.
        steps: Steps taken, this one included.
        saved_steps: Those that a kill does not undo; after one, go on with the batch behind them.
    """

    loss: float
    steps: Count
    saved_steps: Count
