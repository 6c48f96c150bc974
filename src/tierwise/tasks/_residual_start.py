"""Published weights for CIFAR-10 into a residual network of ours."""

from __future__ import annotations

import io
import re
from typing import Any

import torch
from torch import nn

from tierwise._errors import InputError
from tierwise.tasks._residual_files import CIFAR_WEIGHTS
from tierwise.tasks._source import Source

__all__ = ["load_cifar_weights"]

_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv|bn)([12])\.(.+)")
_PARTS = {"conv": "conv", "bn": "norm"}


def load_cifar_weights(net: nn.Module, depth: int, source: Source) -> None:
    """Give ``net``, a `ResNet` of width 16, the weights of that depth; a classifier of other classes keeps its own.

    Those networks have no weights in their shortcuts: they take every second pixel and put the channels between
    channels of zeros. A 1x1 convolution of stride 2 is given just that. They were trained on pictures of other mean and
    deviation (by up to a tenth), which training on makes up for.

    Raises:
        InputError: The file does not hold what such a network has.
        UnavailableError: It can be had neither from ``$TIERWISE_DATA`` nor by download.
    """
    file = CIFAR_WEIGHTS[depth]
    # The content is verified by its hash, and this reader takes tensors only: it runs nothing that the file names.
    read: dict[str, Any] = torch.load(io.BytesIO(source.read(file)), map_location="cpu", weights_only=True)
    given = {_own_name(name.removeprefix("module."), depth): tensor for name, tensor in read["state_dict"].items()}
    own = net.state_dict()
    filled: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        if name.endswith("shortcut.conv.weight"):
            filled[name] = _padded(tensor)
        elif name.startswith("classifier.") and given[name].shape != tensor.shape:
            filled[name] = tensor
        elif ".shortcut.norm." in name or name.endswith("num_batches_tracked"):
            filled[name] = tensor  # as built: gives on what comes
        elif name not in given or given[name].shape != tensor.shape:
            raise InputError(f"the weights must hold {name} of shape {list(tensor.shape)}", where=file.name)
        else:
            filled[name] = given[name].to(tensor.dtype)
    net.load_state_dict(filled)


def _own_name(name: str, depth: int) -> str:
    found = _BLOCK.fullmatch(name)
    if found is not None:
        stage, block, kind, number, rest = found.groups()
        index = (int(stage) - 1) * (depth - 2) // 6 + int(block)
        return f"blocks.{index}.layers.{int(number) - 1}.{_PARTS[kind]}.{rest}"
    for theirs, ours in (("conv1.", "stem.conv."), ("bn1.", "stem.norm."), ("linear.", "classifier.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _padded(weight: torch.Tensor) -> torch.Tensor:
    """The 1x1 weights [out, in, 1, 1] that put ``in`` channels into the middle of ``out``."""
    leaving, arriving = weight.shape[:2]
    made = torch.zeros_like(weight)
    before = (leaving - arriving) // 2
    made[torch.arange(arriving) + before, torch.arange(arriving), 0, 0] = 1.0
    return made
