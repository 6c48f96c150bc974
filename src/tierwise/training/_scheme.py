"""Which tensors are trained: a scheme says it for any model, in layers counted from the end or by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from tierwise._config import Spec, load_toml
from tierwise._errors import SpecError
from tierwise.training._adapter import LoRA
from tierwise.training._preset import PRESETS

__all__ = ["Scheme", "read_scheme"]

Ratio = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Scheme(Spec, frozen=True, kw_only=True):
    """What is trained. A layer is a module with a weight matrix or kernel; norms count with the layer before them.

    Attributes:
        biases: Biases of the last so many layers (and of the norms among them).
        whole: All parameters of the last so many layers.
        weights: Weights of named layers; the number is the share of input channels whose weights are trained, those of
            the largest norm first. Each must be among the layers whose biases are trained: to reach it, the gradient
            passes there anyway. (Lin et al., "On-Device Training Under 256KB Memory", arXiv 2206.15472.)
        lora: Adapters of linear layers by patterns of their names (``*`` stands for anything); the weights themselves
            stay frozen.
        preset: Name of a published scheme (`PRESETS`), which then says all of it.

    Example:
        >>> Scheme(biases=6, whole=1, weights={"blocks.4.conv1": 0.25}).whole
        1
    """

    biases: Annotated[int, msgspec.Meta(ge=0)] | Literal["all"] = 0
    whole: Annotated[int, msgspec.Meta(ge=0)] | Literal["all"] = 0
    weights: dict[str, Ratio] = msgspec.field(default_factory=dict)
    lora: dict[str, LoRA] = msgspec.field(default_factory=dict)
    preset: str = ""

    def __post_init__(self) -> None:
        if self.preset and self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {self.preset!r}")
        if self.preset and (self.biases or self.whole or self.weights or self.lora):
            raise ValueError("a scheme with a preset must have no other field")


def read_scheme(text: str) -> Scheme:
    """A scheme as written on a command line.

    Args:
        text: ``full``; ``last-3``: the last three layers; ``bias``: all biases and the last layer; ``bias-6``:
            biases of the last six and the last layer; ``lora-8``: adapters of rank 8 on all linear layers; the name
            of a published scheme (`PRESETS`); or the path of a TOML file with the fields of `Scheme`.

    Raises:
        SpecError: None of these.
    """
    if text == "full":
        return Scheme(whole="all")
    if text == "bias":
        return Scheme(biases="all", whole=1)
    counted = re.fullmatch(r"(last|bias|lora)-([1-9]\d{0,4})", text)
    if counted:
        count = int(counted[2])
        if counted[1] == "lora":
            return Scheme(lora={"*": LoRA(rank=count)})
        return Scheme(whole=count) if counted[1] == "last" else Scheme(biases=count, whole=1)
    if text in PRESETS:
        return Scheme(preset=text)
    if text.endswith(".toml"):
        return load_toml(Path(text), Scheme)
    raise SpecError(
        f"a scheme must be full, last-N, bias, bias-N, lora-N, a .toml file or one of {', '.join(PRESETS)}",
        got=repr(text),
        fix="Try --scheme last-3",
    )
