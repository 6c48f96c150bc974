"""A learnt distribution over each channel of a latent, and the integer tables it becomes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import nn

from tierwise.codecs import ChannelTable, PriorTables, whole_frequencies

__all__ = ["Density"]

_FILTERS, _SCALE = (3, 3, 3, 3), 10.0
_LEAST = 1e-9
# The density learns this many times faster than the weights: with one rate it would still be the wide one it began as
# when the latents have long found their size.
_FASTER = 10.0
_HALVINGS, _FURTHEST = 60, 1 << 11
# Less than half of one part in the total of a table: what is left out would round to nothing anyway.
_TAIL = 2.0**-17


@final
class Density(nn.Module):
    """The factorised prior: for each channel a cumulative distribution that can take any shape.

    Source: Ballé et al. 2018 (arXiv 1802.01436), appendix 6.1: four layers of three units between the value and the
    logit, weights made positive by softplus, gates ``x + tanh(a) tanh(x)``. A whole number's probability is that of the
    interval of width 1 around it. Medians and tails are found by bisection of the learnt distribution, in place of the
    auxiliary loss of other implementations.

    Args:
        channels: Of the latent, [n, channels, h, w].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        widths = (1, *_FILTERS, 1)
        scale = _SCALE ** (1 / (len(_FILTERS) + 1))
        self.matrices, self.biases, self.gates = (nn.ParameterList() for _ in range(3))
        for fan_in, fan_out in pairwise(widths):
            start = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), start / _FASTER)))
            self.biases.append(nn.Parameter((torch.rand(channels, fan_out, 1) - 0.5) / _FASTER))
        for width in _FILTERS:
            self.gates.append(nn.Parameter(torch.zeros(channels, width, 1)))

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Logit of the share below each value; values [channels, 1, k]."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            values = nn.functional.softplus(_FASTER * matrix) @ values + _FASTER * bias
            if i < len(self.gates):
                values = values + torch.tanh(_FASTER * self.gates[i]) * torch.tanh(values)
        return values

    def likelihood(self, latent: torch.Tensor) -> torch.Tensor:
        """Probability of the interval around each value of a latent [n, channels, h, w], at least 1e-9."""
        rows = latent.transpose(0, 1)
        flat = rows.reshape(self.channels, 1, -1)
        low, high = self.logits(flat - 0.5), self.logits(flat + 0.5)
        # Taken on the side where both are small, since 1 - 1 has no digits left.
        sign = -torch.sign(low + high).detach()
        share = (torch.sigmoid(sign * high) - torch.sigmoid(sign * low)).abs()
        return share.clamp(min=_LEAST).reshape(rows.shape).transpose(0, 1)

    @torch.no_grad()
    def quantile(self, logit: float) -> torch.Tensor:
        """The value of each channel below which a share of that logit lies; [channels]."""
        low = torch.full((self.channels, 1, 1), -float(_FURTHEST))
        high = -low
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.logits(middle) < logit
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).reshape(-1)

    @torch.no_grad()
    def tables(self, medians: torch.Tensor) -> PriorTables:
        """The integer tables of this distribution for values rounded around ``medians`` [channels]."""
        edge = math.log(_TAIL / (1 - _TAIL))
        lowest = torch.floor(self.quantile(edge) - medians).clamp(-_FURTHEST + 1, 0).int()
        highest = torch.ceil(self.quantile(-edge) - medians).clamp(0, _FURTHEST - 1).int()
        tables = []
        for channel in range(self.channels):
            first, last = int(lowest[channel]), int(highest[channel])
            values = medians[channel] + torch.arange(first, last + 1, dtype=torch.float32)
            grid = medians[None, :, None, None].repeat(1, 1, 1, len(values))
            grid[0, channel, 0] = values
            shares = self.likelihood(grid)[0, channel, 0].double().numpy()
            rest = max(0.0, 1.0 - float(shares.sum()))
            frequencies = whole_frequencies(np.append(shares, rest))
            tables.append(ChannelTable(float(medians[channel]), first, frequencies))
        return PriorTables(tuple(tables))
