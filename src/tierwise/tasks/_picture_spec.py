"""Families of networks for pictures other than residual ones. Importing this needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tierwise._config import Spec

__all__ = ["DenseNet", "Inception", "MobileNetV2"]

Positive = Annotated[int, msgspec.Meta(gt=0)]


class MobileNetV2(Spec, frozen=True, tag="mobilenet-v2", tag_field="family", kw_only=True):
    """Inverted residuals with linear bottlenecks (Sandler et al. 2018, arXiv 1801.04381, table 2).

    Attributes:
        width_frac: Width multiplier; channels are rounded to multiples of 8, and the last layer is never under 1280.
        reduction: By how much the last map is smaller than the picture. 32 as published, for 96 pixels and more; with
            less, the first strides are left out: 8 suits 32x32 pictures.
    """

    width_frac: Annotated[float, msgspec.Meta(ge=0.05, le=4)] = 1.0
    reduction: Literal[8, 16, 32] = 32


class DenseNet(Spec, frozen=True, tag="densenet", tag_field="family", kw_only=True):
    """DenseNet-BC for small pictures: three dense blocks (Huang et al. 2017, arXiv 1608.06993, section 4.2).

    Attributes:
        depth: 6n+4; each block has n layers of a 1x1 and a 3x3 convolution.
        growth: Channels that a layer adds; the stem has twice as many.
    """

    depth: Positive = 40
    growth: Positive = 12


class Inception(Spec, frozen=True, tag="inception", tag_field="family", kw_only=True):
    """The small Inception for pictures of about 32 pixels (Zhang et al. 2017, arXiv 1611.03530, appendix A).

    Attributes:
        width: Channels of the stem, 96 as published; all others grow and shrink with it.
    """

    width: Annotated[int, msgspec.Meta(ge=6)] = 96
