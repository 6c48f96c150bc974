"""The small Inception in plain torch."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from tierwise.tasks._conv_norm import ConvNorm, classify, initialise
from tierwise.tasks._picture_spec import Inception

__all__ = ["InceptionNet"]

_STEM = 96
# (channels of the 1x1 convolutions, of the 3x3 ones); no 1x1 convolution: height and width are halved, and what came is
# pooled beside (arXiv 1611.03530, figure 3).
_MODULES = (
    (32, 32), (32, 48), (0, 80),
    (112, 48), (96, 64), (80, 80), (48, 96), (0, 96),
    (176, 160), (176, 160),
)  # fmt: skip


@final
class InceptionNet(nn.Module):
    """Stem, modules of two branches each, global average, classifier.

    Args:
        subject: The shape.
        channels: Channels of the picture.
        classes: Width of the answer.
    """

    def __init__(self, subject: Inception, *, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, subject.width, kernel=3)
        modules: list[nn.Module] = []
        arriving = subject.width
        for single, wide in _MODULES:
            inner, outer = _scaled(single, subject), _scaled(wide, subject)
            modules.append(_Branches(arriving, inner, outer) if inner else _Smaller(arriving, outer))
            arriving = (inner or arriving) + outer
        self.branches = nn.Sequential(*modules)
        self.classifier = nn.Linear(arriving, classes)
        initialise(self)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of pictures [n, channels, height, width]."""
        return classify(self.branches(torch.relu(self.stem(input))), self.classifier)


@final
class _Branches(nn.Module):
    """1x1 and 3x3 convolutions side by side."""

    def __init__(self, arriving: int, single: int, wide: int) -> None:
        super().__init__()
        self.single = ConvNorm(arriving, single, kernel=1)
        self.wide = ConvNorm(arriving, wide, kernel=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.cat((self.single(x), self.wide(x)), 1))


@final
class _Smaller(nn.Module):
    """A 3x3 convolution with stride 2 beside a pooling of what came."""

    def __init__(self, arriving: int, wide: int) -> None:
        super().__init__()
        self.wide = ConvNorm(arriving, wide, kernel=3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.relu(self.wide(x)), self.pool(x)), 1)


def _scaled(channels: int, subject: Inception) -> int:
    return round(channels * subject.width / _STEM)
