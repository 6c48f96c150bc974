"""The published recipes for bottlenecks, each number with its source; a spec takes from one what it does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

import msgspec

from tierwise.codecs import CodecKind
from tierwise.operators._lesson import Lesson
from tierwise.operators._narrow import Family

__all__ = ["RECIPES", "Preset", "Recipe"]

Preset = Literal["hnd", "ghnd", "bottlefit", "entropic-student", "autoencoder", "end-to-end", "entropic-bottlefit"]


@final
@dataclass(frozen=True)
class Recipe:
    """Defaults of one method.

    Attributes:
        family: Encoder and decoder.
        channels: Of the latent.
        codec: Of the latent.
        lessons: Its training.
        depth: Further layers of its encoder.
    """

    family: Family
    channels: int
    codec: CodecKind
    lessons: tuple[Lesson, ...]
    depth: int = 0


# Head network distillation, as the baseline of BottleFit (arXiv 2201.02693): 20 epochs, batch 32, Adam 1e-3, a tenth
# after 5, 10 and 15. Channels 3 is the least of GHND (arXiv 2007.15818: 3, 6, 9, 12).
_AT_THE_CUT: Final = Lesson(features="cut", epochs=20, batch=32, learning_rate=1e-3, milestones=(0.25, 0.5, 0.75))

# Second stage of BottleFit and of Entropic Student (arXiv 2108.11898): 10 epochs, SGD 1e-3 with momentum 0.9 and decay
# 5e-4, a tenth after 5, half cross entropy, half KL at T = 1, encoder frozen. The papers leave the codec out here.
_BEHIND_THE_CUT: Final = Lesson(
    trains=("decoder", "tail"),
    cross_entropy=0.5,
    soft=0.5,
    temperature=1.0,
    codec="round",
    epochs=10,
    batch=64,
    optimiser="sgd",
    learning_rate=1e-3,
    weight_decay=5e-4,
    milestones=(0.5,),
)

RECIPES: Final[dict[Preset, Recipe]] = {
    "hnd": Recipe("conv", 3, "affine", (_AT_THE_CUT,)),
    # Optimiser of the classifiers "CR+BQ" of SC2 (arXiv 2203.08875): 20 epochs, Adam 1e-3, 5, 10, 15. Batch as for HND,
    # so that both take as many steps and only the features differ.
    "ghnd": Recipe("conv", 3, "affine", (msgspec.structs.replace(_AT_THE_CUT, features="all"),)),
    # First stage: 10 epochs, batch 64, Adam 1e-3, a tenth after 5. Channels 3, 6, 9, 12.
    "bottlefit": Recipe(
        "conv", 3, "affine", (Lesson(features="all", epochs=10, batch=64, milestones=(0.5,)), _BEHIND_THE_CUT)
    ),
    # First stage: 10 epochs, batch 64, Adam 1e-3, a tenth after 5 and 8; beta 0.08 to 5.12 (SC2); second: batch 128.
    # 24 channels.
    "entropic-student": Recipe(
        "gdn",
        24,
        "prior",
        (
            Lesson(features="all", rate=0.64, codec="noise", epochs=10, batch=64, milestones=(0.5, 0.8)),
            msgspec.structs.replace(_BEHIND_THE_CUT, batch=128),
        ),
    ),
    # "Middle autoencoder" of BottleFit: behind the model's own first layers, squared error, HND's optimiser.
    "autoencoder": Recipe("autoencoder", 3, "affine", (_AT_THE_CUT,)),
    # Singh et al. 2020 (arXiv 2007.11797) as run by SC2: 60 epochs, batch 256, Adam 1e-3, decay 1e-4, cosine, beta
    # 5e-11 to 2e-7; everything is trained.
    "end-to-end": Recipe(
        "gdn",
        24,
        "prior",
        (
            Lesson(
                trains=("encoder", "decoder", "tail"),
                cross_entropy=1.0,
                rate=2e-7,
                codec="noise",
                epochs=60,
                batch=256,
                weight_decay=1e-4,
                schedule="cosine",
            ),
        ),
    ),
    # Ours: BottleFit's encoder with two more layers, Entropic Student's prior and first stage; then all is trained
    # together, and a bit keeps its price. Numbers chosen on validation splits (docs/bottlenecks.md).
    "entropic-bottlefit": Recipe(
        "conv",
        12,
        "prior",
        (
            Lesson(features="all", rate=0.16, codec="noise", epochs=20, batch=64, milestones=(0.5, 0.8)),
            Lesson(
                trains=("encoder", "decoder", "tail"),
                cross_entropy=0.5,
                soft=0.5,
                rate=3e-4,
                codec="noise",
                epochs=20,
                batch=64,
                weight_decay=1e-4,
                schedule="cosine",
            ),
        ),
        depth=2,
    ),
}
"""By preset. Milestones are shares of a lesson, so that a shorter training keeps its form."""
