"""What eager PyTorch keeps in memory during one step, operator by operator."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tierwise.training._trial import Held
from tierwise.training.compiler._timeline import Moment, Timeline

__all__ = ["eager_timeline"]


def eager_timeline(step: Callable[[], object]) -> Timeline:
    """Which memory lives when while ``step`` runs: all that its operators allocate, saved for the backward pass or not.

    Every storage that an operator returns is followed until PyTorch lets go of it. What was there before (weights, the
    batch, the optimiser's tensors) is not counted; gradients are. What an operator takes for itself while it runs is
    not seen.

    Args:
        step: One whole training step; what it leaves behind counts until its end.
    """
    watch = _Watch()
    with watch:
        step()
    count = len(watch.moments)
    held = [Held(name, size, first, watch.ended.get(key, count - 1)) for key, (name, size, first) in watch.made.items()]
    return Timeline(tuple(watch.moments), tuple(sorted(held, key=lambda one: one.first)))


@final
class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moments: list[Moment] = []
        self.made: dict[int, tuple[str, int, int]] = {}
        self.ended: dict[int, int] = {}
        self._live = 0
        self._known: dict[int, int] = {}  # address of a living storage to its number
        self._given: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._before(tensor)
        answer = func(*args, **(kwargs or {}))
        at = len(self.moments)
        for tensor in tree_leaves(answer):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor, str(func), at)
        self.moments.append(Moment(f"{func}#{at}", str(func), self._live))
        return answer

    def _before(self, tensor: torch.Tensor) -> None:
        """What goes in and was never made here is the caller's."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known and storage._cdata not in self._given:
            self._given.add(storage._cdata)
            weakref.finalize(storage, self._given.discard, storage._cdata)

    def _follow(self, tensor: torch.Tensor, kind: str, at: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._given or storage.nbytes() == 0:
            return
        number = len(self.made)
        self.made[number] = (f"{kind}#{at}", storage.nbytes(), at)
        self._known[key] = number
        self._live += storage.nbytes()
        weakref.finalize(storage, self._end, key, number)

    def _end(self, key: int, number: int) -> None:
        self._known.pop(key, None)
        self._live -= self.made[number][1]
        self.ended[number] = max(len(self.moments) - 1, self.made[number][2])
