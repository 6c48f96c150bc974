"""What the compiled step is held against: eager PyTorch with its own optimisers, and the traced graph run in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from tierwise.artifact import Optimiser, Trained
from tierwise.training._labels import IGNORED
from tierwise.training.compiler._joint import Joint, start_values
from tierwise.training.compiler._model import Model

__all__ = ["Course", "Eager", "mute", "run_eager", "run_graph", "torch_optimiser"]

Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor]


@final
@dataclass(frozen=True)
class Course:
    """What some steps led to.

    Attributes:
        losses: Before each step.
        finals: The trained tensors behind the last step, by parameter name.
    """

    losses: tuple[float, ...]
    finals: dict[str, torch.Tensor]


@final
class Eager:
    """Eager PyTorch that takes steps: forward, `torch.nn.functional.cross_entropy`, autograd and `torch.optim`.

    Weights of which some channels are trained are trained whole, with the gradient of the other channels set to zero.

    Args:
        model: Its tensors stay as they are.
        trained: What is trained.
        optimiser: How.
        wide: In double precision.
    """

    def __init__(self, model: Model, trained: Sequence[Trained], optimiser: Optimiser, *, wide: bool = False) -> None:
        self._model, self._trained, self._wide = model, trained, wide
        given = {name: _double(one.detach()) if wide else one.detach() for name, one in model.tensors.items()}
        self._leaves = {one.name: given[one.name].clone().requires_grad_() for one in trained}
        self._tensors = {**given, **self._leaves}
        self._update = torch_optimiser(optimiser, list(self._leaves.values()))

    def step(self, inputs: tuple[torch.Tensor, ...], labels: torch.Tensor) -> float:
        """One update; the loss before it."""
        if self._wide:
            inputs = tuple(map(_double, inputs))
        loss = _eager_loss(self._model(inputs, self._tensors), labels)
        self._update.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for one in self._trained:
            grad = self._leaves[one.name].grad
            if one.channels and grad is not None:
                kept = torch.zeros_like(grad)
                kept[:, list(one.channels)] = grad[:, list(one.channels)]
                self._leaves[one.name].grad = kept
        self._update.step()
        return float(loss.detach())

    def finals(self) -> dict[str, torch.Tensor]:
        """The trained tensors, or their trained channels, by parameter name."""
        leaves = {one: self._leaves[one.name].detach() for one in self._trained}
        return {one.name: leaf[:, list(one.channels)] if one.channels else leaf for one, leaf in leaves.items()}


def run_eager(
    model: Model,
    trained: Sequence[Trained],
    optimiser: Optimiser,
    batches: Sequence[Batch],
    steps: int,
    *,
    wide: bool = False,
) -> Course:
    """Some steps of `Eager`; batches are taken in turn."""
    eager = Eager(model, trained, optimiser, wide=wide)
    losses = [eager.step(*batches[i % len(batches)]) for i in range(steps)]
    return Course(tuple(losses), eager.finals())


def run_graph(
    joint: Joint, model: Model, trained: Sequence[Trained], how: Optimiser, batches: Sequence[Batch], steps: int
) -> Course:
    """The traced graph, run node by node in torch: the reference backend."""
    start = start_values(model, trained)
    state = {
        name: start.get(name, torch.zeros(0))
        for name, kind in zip(joint.names, joint.kinds, strict=True)
        if kind == "state"
    }
    for one in trained:
        state.update({one.slot(i): torch.zeros_like(start[one.tensor]) for i in range(how.slots)})
    losses = []
    for i in range(steps):
        inputs, labels = batches[i % len(batches)]
        scalars = [torch.tensor(value) for value in how.scalar_values(i + 1, how.rate)]
        with torch.no_grad():
            loss, *after = joint.graph(*state.values(), *scalars, *inputs, labels, *joint.frozen.values())
        state = dict(zip(state, after, strict=True))
        losses.append(float(loss.detach()))
    return Course(tuple(losses), {one.name: state[one.tensor] for one in trained})


def mute(model: Model, trained: Sequence[Trained], batch: Batch) -> set[str]:
    """Names of the tensors that cannot change the loss: their gradient is nothing but rounding, in double precision.

    A bias on attention keys is one, since softmax takes it out again. Adam would blow its rounding up to whole steps.
    """
    inputs, labels = batch
    wide = {name: _double(tensor.detach()) for name, tensor in model.tensors.items()}
    leaves = {one.name: wide[one.name].clone().requires_grad_() for one in trained}
    loss = _eager_loss(model(tuple(map(_double, inputs)), {**wide, **leaves}), labels)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    sizes = {name: 0.0 if g is None else float(g.abs().max()) for name, g in zip(leaves, grads, strict=True)}
    largest = max(sizes.values())
    unused = {name for name, g in zip(leaves, grads, strict=True) if g is None}
    return unused | {name for name, size in sizes.items() if 0 < size < 1e-12 * largest}


def _eager_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@final
class _Lion(torch.optim.Optimizer):
    """Chen et al., arXiv 2302.06675, algorithm 2, without decay; PyTorch has none."""

    def __init__(self, leaves: Sequence[torch.Tensor], how: Optimiser) -> None:
        super().__init__(list(leaves), {})
        self._how = how

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for leaf in self.param_groups[0]["params"]:
            mean = self.state[leaf].setdefault("mean", torch.zeros_like(leaf))
            leaf.sub_(torch.sign(mean * self._how.beta1 + leaf.grad * (1 - self._how.beta1)), alpha=self._how.rate)
            mean.mul_(self._how.beta2).add_(leaf.grad, alpha=1 - self._how.beta2)


def torch_optimiser(how: Optimiser, leaves: list[torch.Tensor]) -> torch.optim.Optimizer:
    """PyTorch's own optimiser that does what ``how`` says."""
    match how.kind:
        case "sgd":
            return torch.optim.SGD(leaves, lr=how.rate)
        case "momentum":
            return torch.optim.SGD(leaves, lr=how.rate, momentum=how.momentum)
        case "adam":
            return torch.optim.Adam(leaves, lr=how.rate, betas=(how.beta1, how.beta2), eps=how.epsilon)
        case "lion":
            return _Lion(leaves, how)
