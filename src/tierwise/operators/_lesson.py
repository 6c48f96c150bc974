"""One stage of a bottleneck's training: what it minimises, and what it changes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tierwise._config import Spec
from tierwise.operators._rounding import Mode

__all__ = ["Lesson"]

Weight = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Lesson(Spec, frozen=True, kw_only=True):
    """A stage of training. Losses are sums over the elements of an item and means over items.

    Attributes:
        trains: What is changed; all else keeps its weights and its statistics.
        features: Where features are compared with the model's own: ``cut``: only at the cut; ``all``: there and at the
            last place behind it of every other shape (one for each size of a ResNet; a network whose channels grow
            layer by layer, such as a DenseNet, has one a layer); or tensors, labels or module paths behind the cut.
        features_weight: Weight of their squared distances, each alike.
        cross_entropy: Weight of the labels; of a detector, weight of its loss of boxes.
        soft: Weight of the model's own answers (KL divergence, times T squared; Hinton et al. 2015, arXiv 1503.02531);
            needs scores of classes.
        temperature: T.
        rate: Weight of a bit of the latent (beta); needs the prior.
        codec: How the codec takes part (`Mode`).
        train_frac: Share of the train split that it sees, from its start: where labels count, a budget of them.
        epochs: Passes over what it sees.
        batch: Items a step.
        optimiser: ``adamw`` (without decay: Adam) or ``sgd`` with momentum 0.9.
        learning_rate: At its peak.
        weight_decay: On weights, not on biases and norms.
        schedule: ``cosine`` with a warm-up, or ``steps``: a tenth from each milestone on.
        milestones: Shares of the lesson, for ``steps``.
    """

    trains: tuple[Literal["encoder", "decoder", "tail"], ...] = ("encoder", "decoder")
    features: Literal["cut", "all"] | tuple[str, ...] = ()
    features_weight: Weight = 1.0
    cross_entropy: Weight = 0.0
    soft: Weight = 0.0
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    rate: Weight = 0.0
    codec: Mode = "none"
    train_frac: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    epochs: Positive = 10
    batch: Positive = 64
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    weight_decay: Weight = 0.0
    schedule: Literal["cosine", "steps"] = "steps"
    milestones: tuple[Annotated[float, msgspec.Meta(gt=0, lt=1)], ...] = ()
