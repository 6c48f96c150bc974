"""Forward, loss, backward and update of one training step as one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta
from torch.nn.attention import SDPBackend, sdpa_kernel

from tierwise._errors import InputError
from tierwise.artifact import Optimiser, Trained
from tierwise.capture import origin
from tierwise.training.compiler._model import Model
from tierwise.training.compiler._rules import rules

__all__ = ["Joint", "capture_step", "cross_entropy", "start_values"]

LABELS = "labels"
LOSS = "loss"


@final
@dataclass(frozen=True)
class Joint:
    """The graph of a whole step, and what its inputs and outputs are.

    Attributes:
        graph: Takes trained tensors, slots, scalars, the model's inputs, labels and frozen tensors, in this order.
        names: Of its inputs in order.
        kinds: ``state``, ``scalar``, ``input``, ``label`` or ``frozen`` for each.
        outputs: Names of its outputs: ``loss``, then ``next.`` of all state.
        frozen: Values of the frozen tensors by name.
        classes: Width of the model's answer.
    """

    graph: fx.GraphModule
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    outputs: tuple[str, ...]
    frozen: Mapping[str, torch.Tensor]
    classes: int


def start_values(model: Model, trained: Sequence[Trained]) -> dict[str, torch.Tensor]:
    """The trained tensors as they are in ``model``, by their names in the graphs."""
    return {
        one.tensor: model.tensors[one.name].detach()[:, list(one.channels)].clone()
        if one.channels
        else model.tensors[one.name].detach().clone()
        for one in trained
    }


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log softmax at the label; without gathers, which need scatters to go back.

    Args:
        logits: [n, classes], or [n, length, vocabulary].
        labels: [n], or [n, length]; places with `tierwise.training.IGNORED` do not count there.
    """
    chosen = (labels.unsqueeze(-1) == torch.arange(logits.shape[-1])).to(logits.dtype)
    # A label that does not count equals no class, so its row adds nothing to either sum.
    counted = chosen.sum() if labels.ndim > 1 else logits.shape[0]
    return -(torch.log_softmax(logits, dim=-1) * chosen).sum() / counted


def capture_step(
    model: Model, trained: Sequence[Trained], optimiser: Optimiser, inputs: Sequence[torch.Tensor], labels: torch.Tensor
) -> Joint:
    """Trace one step for the batch of ``inputs``; autograd stops at the earliest trained tensor by itself.

    Raises:
        InputError: An operator's gradient has no form that an inference engine could run; the message names it.
    """
    start = start_values(model, trained)
    state = dict(start)
    for one in trained:
        state.update({one.slot(i): torch.zeros_like(start[one.tensor]) for i in range(optimiser.slots)})
    whole = {one.name for one in trained if not one.channels}
    frozen = {name: tensor.detach() for name, tensor in model.tensors.items() if name not in whole}
    scalars = {name: torch.tensor(1.0) for name in optimiser.scalars}
    flat = [*state.values(), *scalars.values(), *inputs, labels, *frozen.values()]

    def step(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        taken = iter(given)
        held = {name: next(taken) for name in state}
        rates = [next(taken) for _ in scalars]
        batch = tuple(next(taken) for _ in inputs)
        target = next(taken)
        leaves = [held[one.tensor].detach().requires_grad_() for one in trained]
        tensors = dict(zip(frozen, taken, strict=True))
        tensors.update({one.name: leaf for one, leaf in zip(trained, leaves, strict=True) if not one.channels})
        slices = {one.name: (one, leaf) for one, leaf in zip(trained, leaves, strict=True) if one.channels}
        loss = cross_entropy(model(batch, tensors, slices), target)
        # Plain SGD changes weights by rate times gradient: of one number, not of all of them behind the backward pass.
        grads = torch.autograd.grad(loss * rates[0] if optimiser.kind == "sgd" else loss, leaves)
        after: dict[str, torch.Tensor] = {}
        for one, grad in zip(trained, grads, strict=True):
            slots = [held[one.slot(i)] for i in range(optimiser.slots)]
            new, kept = _updated(optimiser, held[one.tensor], grad, slots, rates)
            after.update({one.tensor: new, **{one.slot(i): value for i, value in enumerate(kept)}})
        return loss.detach(), *(after[name] for name in state)

    try:
        with sdpa_kernel(SDPBackend.MATH), preserve_node_meta():
            graph = make_fx(step, decomposition_table=rules(), tracing_mode="fake", _allow_non_fake_inputs=True)(*flat)
    except Exception as error:  # operators raise many kinds when they are traced or differentiated
        operator, line = origin(error, model.graph.graph)
        reason = f"operator {operator}: " * bool(operator) + str(error).strip().splitlines()[0][:300]
        raise InputError(
            f"a training step must be captured as one graph ({reason})",
            where=line or "the model",
            fix="Write that part with operators whose gradients are matrix products, convolutions or elementwise",
        ) from error
    kinds = ["state"] * len(state) + ["scalar"] * len(scalars) + ["input"] * len(inputs) + ["label"]
    return Joint(
        graph,
        (*state, *scalars, *model.inputs, LABELS, *(f"frozen.{name}" for name in frozen)),
        (*kinds, *(["frozen"] * len(frozen))),
        (LOSS, *(f"next.{name}" for name in state)),
        {f"frozen.{name}": tensor for name, tensor in frozen.items()},
        _classes(model, inputs, labels),
    )


def _classes(model: Model, inputs: Sequence[torch.Tensor], labels: torch.Tensor) -> int:
    with torch.no_grad():
        logits = model(tuple(inputs), model.tensors)
    if logits.ndim not in (2, 3) or logits.shape[-1] < 2:
        raise InputError(
            "a model to train must answer logits [n, classes] or [n, length, vocabulary]",
            got=list(logits.shape),
            where="the model",
        )
    if labels.shape != logits.shape[:-1]:
        raise InputError(
            f"labels must have the shape {list(logits.shape[:-1])}, one for each row of logits",
            got=list(labels.shape),
            where="labels",
        )
    return int(logits.shape[-1])


def _updated(
    how: Optimiser, w: torch.Tensor, g: torch.Tensor, slots: Sequence[torch.Tensor], scalars: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The next weight and slots; of SGD ``g`` is the gradient times the rate already.

    Numbers are multiplied with tensors of at most two axes: ONNX Runtime takes a number times [out, in, 1, 1] one
    element at a time, 60 times slower than times the same elements in one row.
    """
    if how.kind == "sgd":
        return w - g, ()
    shape, rate = w.shape, scalars[0]
    if w.ndim > 2:
        g, slots = g.reshape(-1), [slot.reshape(-1) for slot in slots]
    kept: tuple[torch.Tensor, ...] = ()
    match how.kind:
        case "momentum":
            kept = (how.momentum * slots[0] + g,)
            change = rate * kept[0]
        case "adam":
            mean = how.beta1 * slots[0] + (1 - how.beta1) * g
            square = how.beta2 * slots[1] + (1 - how.beta2) * g * g
            kept = (mean, square)
            change = rate * mean / (square.sqrt() * scalars[1] + how.epsilon)
        case "lion":
            change = rate * torch.sign(how.beta1 * slots[0] + (1 - how.beta1) * g)
            kept = (how.beta2 * slots[0] + (1 - how.beta2) * g,)
    if w.ndim <= 2:
        return w - change, kept
    return w - change.reshape(shape), tuple(slot.reshape(shape) for slot in kept)
