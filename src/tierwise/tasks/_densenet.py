"""DenseNet-BC in plain torch."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from tierwise._errors import SpecError
from tierwise.tasks._conv_norm import classify, initialise
from tierwise.tasks._picture_spec import DenseNet

__all__ = ["DenseNetNet"]

_BLOCKS, _STEP = 3, 6


@final
class DenseNetNet(nn.Module):
    """Stem, dense blocks with transitions that halve everything, global average, classifier.

    Args:
        subject: The shape.
        channels: Channels of the picture.
        classes: Width of the answer.

    Raises:
        SpecError: A depth that the family does not have; the message names the nearest ones.
    """

    def __init__(self, subject: DenseNet, *, channels: int, classes: int) -> None:
        super().__init__()
        layers = _block_layers(subject.depth)
        width = 2 * subject.growth
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        features: list[nn.Module] = []
        for block in range(_BLOCKS):
            for _ in range(layers):
                features.append(_DenseLayer(width, subject.growth))
                width += subject.growth
            if block < _BLOCKS - 1:
                features.append(_Transition(width, width // 2))
                width //= 2
        self.features = nn.Sequential(*features)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, classes)
        initialise(self)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of pictures [n, channels, height, width]."""
        return classify(torch.relu(self.norm(self.features(self.stem(input)))), self.classifier)


@final
class _DenseLayer(nn.Module):
    """Adds ``growth`` channels to those that came; the 1x1 convolution narrows to four times as many."""

    def __init__(self, arriving: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(arriving)
        self.narrow = nn.Conv2d(arriving, 4 * growth, 1, bias=False)
        self.inner_norm = nn.BatchNorm2d(4 * growth)
        self.conv = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.narrow(torch.relu(self.norm(x)))
        return torch.cat((x, self.conv(torch.relu(self.inner_norm(y)))), 1)


@final
class _Transition(nn.Module):
    """Fewer channels, half the height and width."""

    def __init__(self, arriving: int, leaving: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(arriving)
        self.conv = nn.Conv2d(arriving, leaving, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2)


def _block_layers(depth: int) -> int:
    count, rest = divmod(depth - 4, _STEP)
    if rest or count < 1:
        below = max(1, count) * _STEP + 4
        raise SpecError(
            f"the depth must be {_STEP}n+4 (three blocks of n double layers; stem, transitions, classifier)",
            got=depth,
            where="task.subject.depth",
            fix=f"Take {below} or {below + _STEP}",
        )
    return count
