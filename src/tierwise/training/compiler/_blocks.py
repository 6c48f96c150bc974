"""The blocks of a model, and whose weights in them are worth training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, final

from tierwise.training.compiler._model import Layer, Model

__all__ = ["Block", "blocks", "computing", "reach"]


@final
@dataclass(frozen=True)
class Block:
    """Layers that follow each other under one numbered name.

    Attributes:
        name: What their names begin with.
        kind: ``attention`` where there are four linear layers or more of the block's width, and a wider one behind
            them; ``convolution`` where there are convolutions; else ``other``.
        layers: Names, in the order of their use; those with arithmetic only.
        weights: Those of them whose weights are worth training: the first convolution without groups (in inverted
            residuals and bottlenecks the first 1x1), or attention's linear layers and the first one behind them.
            (Measured in Lin et al., arXiv 2206.15472, and Zhu et al., arXiv 2310.17752.)
    """

    name: str
    kind: Literal["convolution", "attention", "other"]
    layers: tuple[str, ...]
    weights: tuple[str, ...]


def computing(model: Model) -> tuple[Layer, ...]:
    """The layers with arithmetic, in the order of their use; what `Scheme` counts."""
    return tuple(layer for layer in model.layers if layer.computes)


def reach(model: Model, layer: str) -> int:
    """How many of the last layers with arithmetic there are from ``layer`` on."""
    names = [one.name for one in computing(model)]
    return len(names) - names.index(layer)


def blocks(model: Model) -> tuple[Block, ...]:
    """Numbered groups of layers (``blocks.3.…``, ``layer.3.…``), and single layers outside of them that convolve."""
    return tuple(_blocks(model))


def _blocks(model: Model) -> Iterator[Block]:
    *layers, _ = computing(model)  # the classifier is trained whole by every scheme
    for name, group in groupby(layers, lambda layer: _prefix(layer.name)):
        found = tuple(group)
        names = tuple(layer.name for layer in found)
        attention = _attention(model, found)
        if attention:
            yield Block(name, "attention", names, attention)
            continue
        convolution = _convolution(model, found)
        if convolution or len(found) > 1:
            yield Block(name, "convolution" if convolution else "other", names, convolution)


def _prefix(name: str) -> str:
    """Up to the first number; the whole name where there is none."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else name


def _shape(model: Model, layer: Layer) -> tuple[int, ...]:
    return next(tuple(model.tensors[name].shape) for name in layer.parameters if model.tensors[name].ndim > 1)


def _convolution(model: Model, layers: tuple[Layer, ...]) -> tuple[str, ...]:
    shapes = {layer.name: _shape(model, layer) for layer in layers if layer.sliceable}
    return tuple([name for name, shape in shapes.items() if len(shape) == 4][:1])


def _attention(model: Model, layers: tuple[Layer, ...]) -> tuple[str, ...]:
    shapes = {layer.name: _shape(model, layer) for layer in layers if layer.sliceable}
    linear = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    if not linear:
        return ()
    width = next(iter(linear.values()))[1]
    inner = [name for name, (out, given) in linear.items() if given == width and out <= width]
    wider = [name for name, (out, given) in linear.items() if given == width and out > width]
    return (*inner, wider[0]) if len(inner) >= 4 and wider else ()
