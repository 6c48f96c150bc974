"""Where published weights for small residual networks come from. Torch-free."""

from __future__ import annotations

from typing import Final

from tierwise._errors import SpecError
from tierwise.tasks._source import SourceFile
from tierwise.tasks._spec import ResNet

__all__ = ["CIFAR_WEIGHTS", "check_start"]

_REPOSITORY = "akamaster/pytorch_resnet_cifar10"
_COMMIT = "d5489e8995e81e91ce6b1d69dcc98ad579b0b153"
_WIDTH, _CHANNELS = 16, 3


def _file(depth: int, sha256: str) -> SourceFile:
    # The makers named each file by the beginning of its hash.
    name = f"pretrained_models/resnet{depth}-{sha256[:8]}.th"
    url = f"https://raw.githubusercontent.com/{_REPOSITORY}/{_COMMIT}/{name}"
    return SourceFile("weights_cifar_resnets", name, sha256, (url,), f"https://github.com/{_REPOSITORY}")


CIFAR_WEIGHTS: Final[dict[int, SourceFile]] = {
    20: _file(20, "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"),
    32: _file(32, "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850"),
    56: _file(56, "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367"),
}
"""By depth: networks of He et al. 2016, section 4.2, trained on CIFAR-10 to 91.8, 92.8 and 93.6 % (BSD 2-clause)."""


def check_start(subject: ResNet, *, channels: int) -> None:
    """That ``subject`` is one which published weights fit, where it asks for them.

    Raises:
        SpecError: It is not.
    """
    if subject.start is None:
        return
    fits = subject.depth in CIFAR_WEIGHTS and subject.width == _WIDTH and subject.block == "basic"
    if not fits or channels != _CHANNELS:
        raise SpecError(
            f"the weights trained on CIFAR-10 are of basic blocks, depth {', '.join(map(str, CIFAR_WEIGHTS))}, "
            f"width {_WIDTH}, for {_CHANNELS} channels of colour",
            got=f"{subject.block}, depth {subject.depth}, width {subject.width}, {channels} channels",
            where="task.subject",
            fix="Take one of these shapes, or leave `start` out",
        )
