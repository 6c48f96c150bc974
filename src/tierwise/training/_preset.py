"""Published schemes by name, as rules that a model's layers are counted by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

__all__ = ["PRESETS", "Blocks", "Convolutions", "Preset"]


@final
@dataclass(frozen=True)
class Convolutions:
    """Counted in convolutions, from 0 at the input; the classifier is none of them and is always trained whole.

    Attributes:
        total: Convolutions that the architecture has.
        biases: How many of the last ones have their biases trained.
        weights: Share of the input channels whose weights are trained, by number of the convolution.
    """

    total: int
    biases: int
    weights: Mapping[int, float]


@final
@dataclass(frozen=True)
class Blocks:
    """Counted in blocks from the end; the classifier is always trained whole.

    Attributes:
        kind: What the blocks are made of: 1x1 convolutions, or attention.
        biases: In how many of the last blocks biases are trained.
        weights: In how many of them weights are, too: of the first 1x1 convolution, or of attention's four linear
            layers and the first one behind them.
    """

    kind: Literal["convolution", "attention"]
    biases: int
    weights: int


@final
@dataclass(frozen=True)
class Preset:
    """A published scheme.

    Attributes:
        family: Models it was published for.
        rule: What it trains.
        source: Where it is from.
        verified: Whether its numbers were read at the source; if not, they were taken from memory of the paper.
    """

    family: str
    rule: Convolutions | Blocks
    source: str
    verified: bool


_CODE = "mit-han-lab/tiny-training, compilation/mcu_ir_gen.py, commit c29157f"
_PAPER = "Zhu et al., PockEngine, arXiv 2310.17752"


def _mcunet(biases: int, weights: Mapping[int, float]) -> Preset:
    return Preset("MCUNet of 42 convolutions", Convolutions(42, biases, weights), _CODE, True)


def _mobilenet(biases: int, weights: Mapping[int, float]) -> Preset:
    return Preset("MobileNetV2", Convolutions(52, biases, weights), _CODE, True)


def _recalled(family: str, kind: Literal["convolution", "attention"], biases: int, weights: int) -> Preset:
    return Preset(family, Blocks(kind, biases, weights), _PAPER, False)


# The numbers of kB are the names of the schemes at their source: extra memory of int8 training at 128x128 pixels.
# Left out: mobilenetv2-49kb, which trains an eighth of a depthwise convolution.
PRESETS: Mapping[str, Preset] = {
    "mcunet-49kb": _mcunet(20, {24: 0.25, 27: 0.5, 30: 0.5}),
    "mcunet-74kb": _mcunet(21, {21: 1, 24: 1, 27: 0.5, 30: 1}),
    "mcunet-99kb": _mcunet(22, {21: 1, 24: 1, 27: 1, 30: 1, 36: 0.125, 39: 0.25}),
    "mcunet-124kb": _mcunet(24, {21: 0.25, 24: 1, 27: 1, 30: 1, 33: 0.5, 39: 0.5}),
    "mcunet-148kb": _mcunet(23, {21: 1, 24: 1, 27: 1, 30: 1, 36: 1, 39: 0.5}),
    "mobilenetv2-73kb": _mobilenet(
        20, {32: 0.125, 33: 0.5, 36: 0.5, 39: 1, 41: 0.25, 42: 0.125, 45: 0.125, 48: 1}
    ),
    "mobilenetv2-99kb": _mobilenet(25, {27: 1, 30: 1, 33: 1, 36: 1, 39: 1, 42: 0.125, 45: 0.5, 48: 1}),
    "mobilenetv2-123kb": _mobilenet(31, {27: 1, 30: 1, 33: 1, 36: 1, 39: 1, 42: 0.5, 45: 1, 48: 1}),
    "mobilenetv2-138kb": _mobilenet(34, {27: 1, 30: 1, 33: 1, 36: 1, 39: 1, 42: 1, 45: 1, 48: 1}),
    "mobilenetv2": _recalled("MobileNetV2", "convolution", 7, 7),
    "resnet50": _recalled("ResNet-50", "convolution", 8, 8),
    "bert": _recalled("BERT-base", "attention", 6, 4),
    "distilbert": _recalled("DistilBERT", "attention", 3, 2),
    "llama": _recalled("LLaMA2-7B", "attention", 5, 5),
}  # fmt: skip
"""By name, as in ``--scheme NAME``."""
