"""From a scheme to the tensors of one model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tierwise._errors import SpecError
from tierwise.artifact import Trained
from tierwise.training._scheme import Scheme
from tierwise.training.compiler._model import Layer, Model
from tierwise.training.compiler._named import settled

__all__ = ["resolve"]


def resolve(scheme: Scheme, model: Model) -> tuple[Trained, ...]:
    """The tensors that ``scheme`` trains, in the model's order.

    Raises:
        SpecError: A preset for other models, a layer that the model does not have or whose channels cannot be trained
            apart, one in front of the biases that are trained, a weight that is trained beside its adapter, or nothing
            to train.
    """
    scheme = settled(scheme, model)
    _check(scheme, model)
    found = tuple(_chosen(scheme, model))
    if not found:
        raise SpecError("a scheme must train something", got="no tensor", where="scheme")
    twice = sorted({one.name for one in found} & {one.weight for one in model.adapters})
    if twice:
        raise SpecError(
            "a weight with an adapter must stay frozen",
            got=twice[0],
            where="scheme",
            fix="Write a pattern that leaves that layer out, or do not train the layer whole",
        )
    return found


def _chosen(scheme: Scheme, model: Model) -> Iterator[Trained]:
    added = {name for one in model.adapters for name in (one.down, one.up)}
    biases, whole = (_first(model.layers, count) for count in (scheme.biases, scheme.whole))
    for position, layer in enumerate(model.layers):
        for name in layer.parameters:
            tensor = model.tensors[name]
            if not tensor.is_floating_point():
                continue
            if name in added or position >= whole or (position >= biases and name.rpartition(".")[2] == "bias"):
                yield Trained(name=name, shape=tuple(tensor.shape))
            elif layer.name in scheme.weights and tensor.ndim > 1:
                yield _share(name, tensor, scheme.weights[layer.name])


def _check(scheme: Scheme, model: Model) -> None:
    names = {layer.name: position for position, layer in enumerate(model.layers) if layer.computes}
    for field, count in {"biases": scheme.biases, "whole": scheme.whole}.items():
        if isinstance(count, int) and count > len(names):
            raise SpecError(
                f"the model has {len(names)} layers with arithmetic; a scheme cannot train more of them",
                got=count,
                where=f"scheme.{field}",
                fix='Give fewer, or "all" (on the command line: full, bias)',
            )
    reach = min(_first(model.layers, scheme.biases), _first(model.layers, scheme.whole))
    for name, ratio in scheme.weights.items():
        where = f"scheme.weights.{name}"
        if name not in names:
            raise SpecError(
                "a layer must be one of the model's", got=name, where=where, fix=f"Layers: {', '.join(names)}"
            )
        if names[name] < reach:
            raise SpecError("a layer must be among those whose biases are trained", where=where, fix="Raise biases")
        if ratio < 1 and not model.layers[names[name]].sliceable:
            raise SpecError(
                "only a linear layer or a convolution without groups can be trained in a share of its channels",
                got=ratio,
                where=where,
                fix="Give 1, or leave the layer out",
            )


def _first(layers: tuple[Layer, ...], count: int | str) -> int:
    """Position of the first layer that is among the last ``count`` that compute."""
    places = [position for position, layer in enumerate(layers) if layer.computes]
    if count == 0:
        return len(layers)
    if isinstance(count, str):
        return 0
    return places[-count]


def _share(name: str, tensor: torch.Tensor, ratio: float) -> Trained:
    count = max(1, round(ratio * tensor.shape[1]))
    if count == tensor.shape[1]:
        return Trained(name=name, shape=tuple(tensor.shape))
    norms = tensor.detach().transpose(0, 1).flatten(1).norm(dim=1)
    channels = tuple(sorted(norms.topk(count).indices.tolist()))
    return Trained(name=name, shape=(tensor.shape[0], count, *tensor.shape[2:]), channels=channels)
