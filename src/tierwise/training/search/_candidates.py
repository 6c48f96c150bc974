"""What a search may choose from: depths of biases, and shares of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import final

from tierwise._errors import SpecError
from tierwise.training._scheme import Scheme
from tierwise.training.compiler import Model, blocks, computing, reach

__all__ = ["RATIOS", "Candidates", "candidates"]

RATIOS = (0.125, 0.25, 0.5, 1.0)
"""Shares of input channels that the publication searches (Lin et al., arXiv 2206.15472, section 2.2)."""


@final
@dataclass(frozen=True)
class Candidates:
    """What may be chosen.

    Attributes:
        depths: Numbers of last layers whose biases are trained, rising; the first is the classifier alone.
        slices: Layer, share of its input channels, and the least of ``depths`` that reaches it.
    """

    depths: tuple[int, ...]
    slices: tuple[tuple[str, float, int], ...]

    def bias_only(self, biases: int) -> Scheme:
        """The scheme of a depth."""
        return Scheme(biases=biases, whole=1)

    def with_slice(self, biases: int, layer: str, ratio: float) -> Scheme:
        """The scheme of a depth and one slice."""
        return Scheme(biases=biases, whole=1, weights={layer: ratio})


def candidates(model: Model, patterns: Sequence[str] = (), ratios: Sequence[float] = RATIOS) -> Candidates:
    """Depths that end at blocks, and the layers whose weights are worth training (`Block.weights`).

    Args:
        model: The model.
        patterns: Names of layers to take in place of those, with ``*`` for anything.
        ratios: Shares of input channels, in (0, 1].

    Raises:
        SpecError: A pattern that fits no layer, a ratio out of bounds, or a model without blocks and no patterns.
    """
    wrong = [ratio for ratio in ratios if not 0 < ratio <= 1]
    if wrong or not ratios:
        raise SpecError("ratios must be above 0 and at most 1", got=wrong or "none", where="ratios")
    names = [layer.name for layer in computing(model)][:-1]
    found = [block for block in blocks(model) if len(block.layers) > 1]
    layers = [name for block in found for name in block.weights]
    if patterns:
        lost = [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)]
        if lost:
            raise SpecError(
                "a pattern must fit a layer", got=lost[0], where="layers", fix=f"Layers: {', '.join(names)}"
            )
        layers = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    elif not layers:
        raise SpecError("the model has no numbered blocks to choose from", where="layers", fix="Name layers: --layers")
    ends = {reach(model, block.layers[0]) for block in found} or {reach(model, layer) for layer in layers}
    depths = tuple(sorted({1, *ends, max(reach(model, layer) for layer in layers)}))
    slices = [
        (layer, ratio, min(depth for depth in depths if depth >= reach(model, layer)))
        for layer in layers
        for ratio in _distinct(model, layer, ratios)
    ]
    return Candidates(depths, tuple(slices))


def _distinct(model: Model, name: str, ratios: Sequence[float]) -> list[float]:
    """Ratios that give different numbers of channels; 1 alone where a layer cannot be sliced."""
    layer = next(one for one in model.layers if one.name == name)
    if not layer.sliceable:
        return [1.0] if 1.0 in ratios else []
    width = next(int(model.tensors[p].shape[1]) for p in layer.parameters if model.tensors[p].ndim > 1)
    counts = {max(1, round(ratio * width)): ratio for ratio in sorted(ratios)}
    return sorted(counts.values())
