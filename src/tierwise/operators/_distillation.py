"""The loss by which a model learns from another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import nn

from tierwise._errors import InputError
from tierwise.tasks import answer

__all__ = ["Distillation", "matching_layers"]

Batch = dict[str, torch.Tensor]


@final
class Distillation(nn.Module):
    """An objective of `tierwise.tasks.fine_tune`: soft answers of a teacher, true labels, and features.

    The loss is ``soft * T^2 * KL(teacher / T || student / T) + (1 - soft) * cross entropy`` (Hinton et al. 2015, arXiv
    1503.02531) plus ``features`` times the mean squared distance of the features named, through learnt adapters (Romero
    et al. 2015, arXiv 1412.6550).

    Args:
        teacher: The model to learn from; its weights stay as they are.
        temperature: T, which softens both answers.
        soft_frac: Share of the soft answers; the rest is the labels'.
        feature_weight: Weight of the features.
        layers: Module paths of (teacher, student) whose outputs are compared.
        student: The model that will learn; needed where there are layers, to make the adapters.
        example: Inputs by name, for the same purpose.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        temperature: float,
        soft_frac: float,
        feature_weight: float = 0.0,
        layers: Sequence[tuple[str, str]] = (),
        student: nn.Module | None = None,
        example: Batch | None = None,
    ) -> None:
        super().__init__()
        # In a list, so that the teacher is no part of what is trained and kept.
        self._teacher = [teacher.eval().requires_grad_(False)]
        self._temperature, self._soft_frac, self._feature_weight = temperature, soft_frac, feature_weight
        self._layers = tuple(layers) if feature_weight > 0 else ()
        self.adapters = nn.ModuleList()
        if self._layers and student is not None and example is not None:
            mode = student.training
            with _watched(teacher, [t for t, _ in self._layers]) as given, torch.no_grad():
                answer(teacher, example)
            with _watched(student.eval(), [s for _, s in self._layers]) as made, torch.no_grad():
                answer(student, example)
            student.train(mode)
            self.adapters.extend(_adapter(made[s], given[t]) for t, s in self._layers)

    def forward(self, model: nn.Module, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
        """The loss of ``model`` on a batch."""
        teacher = self._teacher[0]
        with _watched(teacher, [t for t, _ in self._layers]) as given, torch.no_grad():
            wanted = answer(teacher, batch).float()
        with _watched(model, [s for _, s in self._layers]) as made:
            logits = answer(model, batch).float()
        soft = nn.functional.kl_div(
            nn.functional.log_softmax(logits / self._temperature, dim=-1),
            nn.functional.log_softmax(wanted / self._temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        hard = nn.functional.cross_entropy(logits, labels)
        loss = self._soft_frac * self._temperature**2 * soft + (1 - self._soft_frac) * hard
        for adapter, (t, s) in zip(self.adapters, self._layers, strict=True):
            loss = loss + self._feature_weight * _distance(adapter(made[s]), given[t])
        return loss


def matching_layers(teacher: nn.Module, student: nn.Module, count: int = 3) -> tuple[tuple[str, str], ...]:
    """Pairs of module paths (teacher, student) at the same relative depth.

    They are the children of the first list or sequence of modules, of two at least, that both have at one path: blocks
    of a residual network, layers of an encoder.

    Raises:
        InputError: There is no such list.
    """
    others = dict(student.named_modules())
    for name, module in teacher.named_modules():
        other = others.get(name)
        listed = (nn.Sequential, nn.ModuleList)
        if not (name and isinstance(module, listed) and isinstance(other, listed) and len(module) > 1):
            continue
        pairs = {
            (-(-len(module) * part // count) - 1, -(-len(other) * part // count) - 1) for part in range(1, count + 1)
        }
        return tuple((f"{name}.{t}", f"{name}.{s}") for t, s in sorted(pairs))
    raise InputError(
        "teacher and student must have a list of blocks at the same path, to compare features",
        where=f"{type(teacher).__name__} and {type(student).__name__}",
        fix="Name the layers (features = [[teacher path, student path], ...]) or set feature_weight = 0",
    )


@contextmanager
def _watched(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Outputs of some submodules, by path, filled while the block runs the model."""
    seen: dict[str, torch.Tensor] = {}

    def note(path: str, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor):
            seen[path] = first

    modules = dict(model.named_modules())
    for path in paths:
        if path not in modules:
            raise InputError("a feature must be the path of a submodule", got=repr(path), where=type(model).__name__)
    hooks = [
        modules[path].register_forward_hook(lambda _m, _i, output, path=path: note(path, output)) for path in paths
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _adapter(made: torch.Tensor, given: torch.Tensor) -> nn.Module:
    """A linear map from the student's features to as many channels as the teacher's have."""
    if made.ndim != given.ndim or made.ndim not in (2, 3, 4):
        raise InputError(
            "features to compare must both be [n, c], [n, t, c] or [n, c, h, w]",
            got=f"{list(made.shape)} and {list(given.shape)}",
        )
    if made.ndim == 4:
        return nn.Conv2d(made.shape[1], given.shape[1], 1, bias=False)
    return nn.Linear(made.shape[-1], given.shape[-1], bias=False)


def _distance(made: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    if made.ndim == 4 and made.shape[2:] != given.shape[2:]:
        height, width = (min(a, b) for a, b in zip(made.shape[2:], given.shape[2:], strict=True))
        made, given = (nn.functional.adaptive_avg_pool2d(x, (height, width)) for x in (made, given))
    return nn.functional.mse_loss(made.float(), given.float())
