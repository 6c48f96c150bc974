"""FastestDet in plain torch: an anchor-free detector of a quarter of a million weights.

Architecture and weights: github.com/dog-qiuqiu/FastestDet (BSD 3-clause); its backbone is ShuffleNetV2 (Ma et al. 2018,
arXiv 1807.11164). Modules are named as there, so that its weights can be loaded.
"""

from __future__ import annotations

import io
from typing import final

import torch
from torch import nn

from tierwise._errors import InputError
from tierwise.tasks._source import Source, SourceFile
from tierwise.tasks._spec import FastestDet

__all__ = ["COCO_WEIGHTS", "FastestDetNet", "load_coco_weights"]

_COMMIT = "50473cd155cb088aa4a99e64ff6a4b3c24fa07e1"

COCO_WEIGHTS = SourceFile(
    "weights_fastestdet",
    "weights/weight_AP05:0.253207_280-epoch.pth",
    "7f688d478ee474c82dbdb9c10e0ede2f8f3cf5d603f0825d2efd925eb561d05e",
    (
        f"https://raw.githubusercontent.com/dog-qiuqiu/FastestDet/{_COMMIT}/weights/"
        "weight_AP05%3A0.253207_280-epoch.pth",
    ),
    "https://github.com/dog-qiuqiu/FastestDet",
)
"""The weights that its makers trained on COCO's 80 classes at a width of 24."""

_REPEATS = (4, 8, 4)


@final
class FastestDetNet(nn.Module):
    """Backbone with three stages, one joined scale at a stride of 16, three small branches.

    Args:
        subject: Its width.
        classes: Number of classes.
    """

    def __init__(self, subject: FastestDet, *, classes: int) -> None:
        super().__init__()
        width = subject.width
        self.backbone = _Backbone(width)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.avg_pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.SPP = _Neck(14 * width, 4 * width)
        self.detect_head = _Head(4 * width, classes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[n, 5 + classes, height / 16, width / 16] of pictures [n, 3, height, width] (BGR, multiples of 32).

        Objectness in [0, 1]; offset and size of the box before tanh and sigmoid; shares of the classes.
        """
        fine, middle, coarse = self.backbone(input)
        joined = torch.cat((self.avg_pool(fine), middle, self.upsample(coarse)), dim=1)
        answer: torch.Tensor = self.detect_head(self.SPP(joined))
        return answer


@final
class _Backbone(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*_conv(3, 24, 3, stride=2), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        arriving, stages = 24, []
        for place, repeats in enumerate(_REPEATS):
            leaving = width << (place + 1)
            units: list[nn.Module] = [_Down(arriving, leaving)]
            units += [_Unit(leaving) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*units))
            arriving = leaving
        self.stage2, self.stage3, self.stage4 = stages

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


@final
class _Unit(nn.Module):
    """Every second channel passes unchanged, the others through a narrow block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch_main = nn.Sequential(
            *_conv(half, half, 1), nn.ReLU(), *_conv(half, half, 3, groups=half), *_conv(half, half, 1), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Channels 0, 2, 4, ... and 1, 3, 5, ...; sliced, because quantisers cannot follow a reshape of a free batch.
        passing, worked = x[:, 0::2], x[:, 1::2]
        return torch.cat((passing, self.branch_main(worked)), dim=1)


@final
class _Down(nn.Module):
    """Two branches with a stride of 2, one channel count beside the other."""

    def __init__(self, arriving: int, leaving: int) -> None:
        super().__init__()
        inner, added = leaving // 2, leaving - arriving
        self.branch_main = nn.Sequential(
            *_conv(arriving, inner, 1),
            nn.ReLU(),
            *_conv(inner, inner, 3, stride=2, groups=inner),
            *_conv(inner, added, 1),
            nn.ReLU(),
        )
        self.branch_proj = nn.Sequential(
            *_conv(arriving, arriving, 3, stride=2, groups=arriving), *_conv(arriving, arriving, 1), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.branch_proj(x), self.branch_main(x)), dim=1)


@final
class _Point(nn.Module):
    """A 1x1 convolution, norm and activation."""

    def __init__(self, arriving: int, leaving: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*_conv(arriving, leaving, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.conv1x1(x)
        return made


@final
class _Neck(nn.Module):
    """One, two and three 5x5 convolutions side by side: fields of view of 5, 9 and 13 cells."""

    def __init__(self, arriving: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = _Point(arriving, width)
        self.S1, self.S2, self.S3 = (nn.Sequential(*_wide(width, count)) for count in (1, 2, 3))
        self.output = nn.Sequential(*_conv(3 * width, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.Conv1x1(x)
        joined = torch.cat((self.S1(x), self.S2(x), self.S3(x)), dim=1)
        return torch.relu(x + self.output(joined))


@final
class _Branch(nn.Module):
    def __init__(self, width: int, leaving: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(*_wide(width, 1), *_conv(width, leaving, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.conv5x5(x)
        return made


@final
class _Head(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = _Point(width, width)
        self.obj_layers, self.reg_layers = _Branch(width, 1), _Branch(width, 4)
        self.cls_layers = _Branch(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1x1(x)
        shares = torch.softmax(self.cls_layers(x), dim=1)
        return torch.cat((torch.sigmoid(self.obj_layers(x)), self.reg_layers(x), shares), dim=1)


def _conv(arriving: int, leaving: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(arriving, leaving, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(leaving)]


def _wide(width: int, count: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [*_conv(width, width, 5, groups=width), nn.ReLU()]
    return layers


def load_coco_weights(net: FastestDetNet, source: Source) -> None:
    """Give ``net`` the makers' weights; its class branch keeps its own where it has another number of classes.

    Raises:
        InputError: ``net`` has another width.
        UnavailableError: The weights can be had neither from ``$TIERWISE_DATA`` nor by download.
    """
    content = source.read(COCO_WEIGHTS)
    # The content is verified by its hash, and this reader takes tensors only: it runs nothing that the file names.
    weights: dict[str, torch.Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    own = net.state_dict()
    other = [name for name, tensor in weights.items() if own[name].shape != tensor.shape]
    if any(not name.startswith("detect_head.cls_layers.conv5x5.") for name in other):
        raise InputError(
            "the weights trained on COCO are of a width of 24", got="another", where="task.subject.width",
            fix="Take width 24, or leave `start` out",
        )  # fmt: skip
    net.load_state_dict({**own, **{name: tensor for name, tensor in weights.items() if name not in other}})
