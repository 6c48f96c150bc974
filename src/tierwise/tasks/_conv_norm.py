"""What networks for pictures are made of."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

__all__ = ["ConvNorm", "classify", "initialise"]


@final
class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm; an exporter folds them into one."""

    def __init__(self, arriving: int, leaving: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(arriving, leaving, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(leaving)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.conv(x))
        return normed


def classify(features: torch.Tensor, classifier: nn.Module) -> torch.Tensor:
    """Logits [n, classes] of the mean of ``features`` [n, channels, height, width] over both axes."""
    # Written as pooling: quantisers know the operator.
    logits: torch.Tensor = classifier(nn.functional.adaptive_avg_pool2d(features, 1).flatten(1))
    return logits


def initialise(net: nn.Module) -> None:
    """Convolutions by their outgoing connections (He et al. 2015, arXiv 1502.01852)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
