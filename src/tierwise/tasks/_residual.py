"""Residual networks for pictures in plain torch: ResNet, wide ResNet and ResNeXt, small and full size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn

from tierwise._errors import SpecError
from tierwise.tasks._conv_norm import ConvNorm, classify, initialise
from tierwise.tasks._spec import FullSize, ResNet, ResNeXt

__all__ = ["ResidualNet", "ResidualPlan", "residual_plan"]


@final
@dataclass(frozen=True)
class ResidualPlan:
    """Everything that decides the shape of a residual network; widths double with each stage.

    Attributes:
        stem: ``small``: 3x3, for pictures of up to 64 pixels; ``large``: 7x7 with stride 2, then pooling by 2.
        block: ``basic`` or ``bottleneck``.
        blocks: Blocks of each stage; every stage but the first halves height and width.
        stem_width: Channels of the stem.
        inner: Channels of the 3x3 convolutions of the first stage.
        out: Channels that leave the first stage.
        groups: Groups of the bottleneck's 3x3 convolution.
        stem_stride: Of a small stem; a large one has 2.
    """

    stem: Literal["small", "large"]
    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, ...]
    stem_width: int
    inner: int
    out: int
    groups: int = 1
    stem_stride: int = 1


# (blocks, block, groups, channels of one group in the first stage), He et al. 2016 table 1 and Xie et al. 2017 table 1;
# wide: Zagoruyko & Komodakis 2016 (the inner width twice).
_FULL_SIZE: dict[str, tuple[tuple[int, ...], Literal["basic", "bottleneck"], int, int]] = {
    "resnet18": ((2, 2, 2, 2), "basic", 1, 64),
    "resnet34": ((3, 4, 6, 3), "basic", 1, 64),
    "resnet50": ((3, 4, 6, 3), "bottleneck", 1, 64),
    "resnet101": ((3, 4, 23, 3), "bottleneck", 1, 64),
    "resnet152": ((3, 8, 36, 3), "bottleneck", 1, 64),
    "wide_resnet50_2": ((3, 4, 6, 3), "bottleneck", 1, 128),
    "wide_resnet101_2": ((3, 4, 23, 3), "bottleneck", 1, 128),
    "resnext50_32x4d": ((3, 4, 6, 3), "bottleneck", 32, 4),
    "resnext101_32x8d": ((3, 4, 23, 3), "bottleneck", 32, 8),
    "resnext101_64x4d": ((3, 4, 23, 3), "bottleneck", 64, 4),
}


def residual_plan(subject: ResNet | ResNeXt | FullSize) -> ResidualPlan:
    """The shape that a subject asks for.

    Raises:
        SpecError: A depth that the family does not have; the message names the nearest ones.
    """
    match subject:
        case FullSize(architecture=name):
            blocks, block, groups, group_width = _FULL_SIZE[name]
            out = 64 if block == "basic" else 256
            return ResidualPlan("large", block, blocks, 64, groups * group_width, out, groups)
        case ResNet(depth=depth, width=width, block="basic", stem_stride=stride):
            blocks = (_stage_blocks(depth, 6),) * 3
            return ResidualPlan("small", "basic", blocks, width, width, width, stem_stride=stride or 1)
        case ResNet(depth=depth, width=width, stem_stride=stride):
            blocks = (_stage_blocks(depth, 9),) * 3
            return ResidualPlan("small", "bottleneck", blocks, width, width, 4 * width, stem_stride=stride or 1)
        case ResNeXt(depth=depth, width=width, cardinality=groups, group_width=group_width):
            blocks = (_stage_blocks(depth, 9),) * 3
            return ResidualPlan("small", "bottleneck", blocks, width, groups * group_width, 4 * width, groups)


def _stage_blocks(depth: int, step: int) -> int:
    count, rest = divmod(depth - 2, step)
    if rest or count < 1:
        below = max(1, count) * step + 2
        raise SpecError(
            f"the depth must be {step}n+2 (three stages of n blocks, a stem and a classifier)",
            got=depth,
            where="task.subject.depth",
            fix=f"Take {below} or {below + step}",
        )
    return count


@final
class ResidualNet(nn.Module):
    """Stem, stages of residual blocks, global average, classifier.

    The stride of a bottleneck lies on its 3x3 convolution, as in all published weights of today.

    Args:
        plan: The shape.
        channels: Channels of the picture.
        classes: Width of the answer.
    """

    def __init__(self, plan: ResidualPlan, *, channels: int, classes: int) -> None:
        super().__init__()
        large = plan.stem == "large"
        stride = 2 if large else plan.stem_stride
        self.stem = ConvNorm(channels, plan.stem_width, kernel=7 if large else 3, stride=stride)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        stages: list[nn.Module] = []
        arriving = plan.stem_width
        for stage, count in enumerate(plan.blocks):
            inner, out = plan.inner << stage, plan.out << stage
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(_Block(arriving, inner, out, stride=stride, plan=plan))
                arriving = out
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(arriving, classes)
        initialise(self)
        _begin_near_identity(self)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of pictures [n, channels, height, width]."""
        features = self.blocks(self.pool(torch.relu(self.stem(input))))
        return classify(features, self.classifier)


@final
class _Block(nn.Module):
    """A residual block; its shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, arriving: int, inner: int, out: int, *, stride: int, plan: ResidualPlan) -> None:
        super().__init__()
        if plan.block == "basic":
            layers = [ConvNorm(arriving, inner, kernel=3, stride=stride), ConvNorm(inner, out, kernel=3)]
        else:
            layers = [
                ConvNorm(arriving, inner, kernel=1),
                ConvNorm(inner, inner, kernel=3, stride=stride, groups=plan.groups),
                ConvNorm(inner, out, kernel=1),
            ]
        self.layers = nn.ModuleList(layers)
        same = stride == 1 and arriving == out
        self.shortcut = nn.Identity() if same else ConvNorm(arriving, out, kernel=1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for index, layer in enumerate(self.layers):
            y = layer(torch.relu(y) if index else y)
        added: torch.Tensor = y + self.shortcut(x)
        return torch.relu(added)


def _begin_near_identity(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, _Block):
            # Every block starts near the identity, which lets short trainings take large steps (Goyal et al. 2017,
            # arXiv 1706.02677, section 5.1, start at exactly 0). Not at 0: an untrained network shall have branches
            # with real numbers in them, of moderate size at any depth, so that it can be quantised and compared.
            nn.init.constant_(module.layers[-1].norm.weight, 0.2)  # type: ignore[arg-type, union-attr]
