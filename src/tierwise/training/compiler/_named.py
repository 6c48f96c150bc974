"""A published scheme, counted off on the layers of one model."""

from __future__ import annotations

from tierwise._errors import SpecError
from tierwise.training._preset import PRESETS, Blocks, Convolutions, Preset
from tierwise.training._scheme import Scheme
from tierwise.training.compiler._blocks import blocks, computing, reach
from tierwise.training.compiler._model import Model

__all__ = ["settled"]


def settled(scheme: Scheme, model: Model) -> Scheme:
    """``scheme`` with its preset written out in layers; itself where it has none.

    Raises:
        SpecError: The model is not of the family that the preset was published for.
    """
    if not scheme.preset:
        return scheme
    preset = PRESETS[scheme.preset]
    match preset.rule:
        case Convolutions():
            return _counted(scheme.preset, preset, preset.rule, model)
        case Blocks():
            return _blockwise(scheme.preset, preset, preset.rule, model)


def _counted(name: str, preset: Preset, rule: Convolutions, model: Model) -> Scheme:
    layers = computing(model)
    kernels = {layer.name: model.tensors[layer.parameters[0]].ndim for layer in layers}
    convolutions = [layer.name for layer in layers[:-1] if kernels[layer.name] == 4]
    if len(convolutions) != rule.total or len(convolutions) != len(layers) - 1:
        raise _stranger(name, preset, f"{len(convolutions)} convolutions of {len(layers)} layers")
    weights = {convolutions[number]: ratio for number, ratio in rule.weights.items()}
    return Scheme(biases=reach(model, convolutions[-rule.biases]), whole=1, weights=weights)


def _blockwise(name: str, preset: Preset, rule: Blocks, model: Model) -> Scheme:
    found = [block for block in blocks(model) if block.kind == rule.kind and len(block.layers) > 1]
    if len(found) < max(rule.biases, rule.weights):
        raise _stranger(name, preset, f"{len(found)} blocks of {rule.kind}")
    weights = {layer: 1.0 for block in found[-rule.weights :] for layer in block.weights}
    return Scheme(biases=reach(model, found[-rule.biases].layers[0]), whole=1, weights=weights)


def _stranger(name: str, preset: Preset, got: str) -> SpecError:
    return SpecError(
        f"the scheme {name} is for models of the family {preset.family}",
        got=got,
        where="scheme.preset",
        fix="Take another scheme, or search one: tierwise train search",
    )
