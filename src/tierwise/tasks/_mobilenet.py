"""MobileNetV2 in plain torch."""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from torch.nn.functional import relu6

from tierwise.tasks._conv_norm import ConvNorm, classify, initialise
from tierwise.tasks._picture_spec import MobileNetV2

__all__ = ["MobileNetV2Net"]

_STEM, _LAST = 32, 1280
# (expansion, channels, blocks, stride), arXiv 1801.04381, table 2.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@final
class MobileNetV2Net(nn.Module):
    """Stem, stages of inverted residuals, a wide 1x1 convolution, global average, classifier.

    Args:
        subject: The shape.
        channels: Channels of the picture.
        classes: Width of the answer.
    """

    def __init__(self, subject: MobileNetV2, *, channels: int, classes: int) -> None:
        super().__init__()
        share = subject.width_frac
        # The stem's and the first stage's stride go first, the later ones never.
        left_out = {32: 0, 16: 1, 8: 2}[subject.reduction]
        arriving = _divisible(_STEM * share)
        self.stem = ConvNorm(channels, arriving, kernel=3, stride=1 if left_out else 2)
        blocks: list[nn.Module] = []
        for number, (expansion, width, count, stride) in enumerate(_STAGES):
            leaving = _divisible(width * share)
            first = 1 if number == 1 and left_out == 2 else stride
            for index in range(count):
                blocks.append(_InvertedResidual(arriving, leaving, expansion, stride=1 if index else first))
                arriving = leaving
        self.blocks = nn.Sequential(*blocks)
        last = _divisible(_LAST * max(1.0, share))
        self.last = ConvNorm(arriving, last, kernel=1)
        self.classifier = nn.Linear(last, classes)
        initialise(self)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of pictures [n, channels, height, width]."""
        features = self.blocks(relu6(self.stem(input)))
        return classify(relu6(self.last(features)), self.classifier)


@final
class _InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; added to what came where the shape stays."""

    def __init__(self, arriving: int, leaving: int, expansion: int, *, stride: int) -> None:
        super().__init__()
        inner = arriving * expansion
        self.expand = ConvNorm(arriving, inner, kernel=1) if expansion > 1 else None
        self.depthwise = ConvNorm(inner, inner, kernel=3, stride=stride, groups=inner)
        self.project = ConvNorm(inner, leaving, kernel=1)
        self.adds = stride == 1 and arriving == leaving

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else relu6(self.expand(x))
        y = self.project(relu6(self.depthwise(y)))
        added: torch.Tensor = x + y if self.adds else y
        return added


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that takes no more than a tenth away (as in the authors' code)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
