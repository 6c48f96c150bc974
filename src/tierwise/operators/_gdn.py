"""Generalised divisive normalisation in its simplified form, and its inverse."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

__all__ = ["GDN1"]

_LEAST_BETA, _PEDESTAL = 1e-6, 2.0**-36
_GAMMA_INIT = 0.1


@final
class GDN1(nn.Module):
    """``y_i = x_i / (beta_i + sum_j gamma_ij |x_j|)``; the inverse multiplies.

    Source: Johnston et al. 2019 (arXiv 1912.08771), eq. 3, as in Entropic Student (arXiv 2108.11898). Beta begins at 1
    and gamma at 0.1 on the diagonal; both are squares of what is learnt, so that they stay above 0 with a gradient.

    Args:
        channels: Of x, [n, channels, h, w].
        inverse: Whether to multiply.
    """

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.sqrt(torch.ones(channels) + _PEDESTAL))
        self.gamma = nn.Parameter(torch.sqrt(_GAMMA_INIT * torch.eye(channels) + _PEDESTAL))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalised tensor."""
        beta = self.beta.clamp(min=(_LEAST_BETA + _PEDESTAL) ** 0.5) ** 2 - _PEDESTAL
        gamma = self.gamma.clamp(min=_PEDESTAL**0.5) ** 2 - _PEDESTAL
        norm = nn.functional.conv2d(x.abs(), gamma[:, :, None, None], beta)
        return x * norm if self.inverse else x / norm
