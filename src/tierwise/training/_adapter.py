"""Low-rank adapters: what is added to a frozen weight, and how it becomes part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise.artifact import TrainingStep

__all__ = ["LoRA", "merge"]


class LoRA(Spec, frozen=True, kw_only=True):
    """An adapter of a linear layer: W x + alpha / rank * B A x, with W frozen, A [rank, in] and B [out, rank] trained.

    A begins random and B at zero, so the model begins as it was (Hu et al. 2021, arXiv 2106.09685, section 4.1).

    Attributes:
        rank: Rows of A.
        alpha: Of the factor in front; None: the rank, so that the factor is one.

    Example:
        >>> LoRA(rank=8, alpha=16).scale
        2.0
    """

    rank: Annotated[int, msgspec.Meta(gt=0)]
    alpha: Annotated[float, msgspec.Meta(gt=0)] | None = None

    @property
    def scale(self) -> float:
        """The factor in front of B A."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def merge(
    spec: TrainingStep, weights: Mapping[str, npt.NDArray[Any]], learnt: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Plain weights with the adapters in them: W + scale * B A, computed in double precision.

    Args:
        spec: What was trained: adapters, and nothing else.
        weights: The model's weights as it was compiled, by name.
        learnt: The trained tensors by their names in the graphs, as a delta holds them.

    Raises:
        InputError: A step that trains other tensors, or a weight that is missing or of another shape.

    Returns:
        All of ``weights``; those without an adapter as they came.
    """
    added = {name for one in spec.adapters for name in (one.down, one.up)}
    others = [one.name for one in spec.trained if one.name not in added]
    if others or not added:
        raise InputError(
            "only a step that trains adapters alone can be merged into plain weights",
            got=f"also trained: {others[0]}" if others else "no adapter",
            fix="Apply the delta to a copy of the artifact instead",
        )
    merged = dict(weights)
    tensors = {one.name: learnt.get(one.tensor) for one in spec.trained}
    for one in spec.adapters:
        base, down, up = weights.get(one.weight), tensors[one.down], tensors[one.up]
        if down is None or up is None:
            raise InputError("what was learnt must hold every adapter", got=sorted(learnt)[:4], where=one.weight)
        if base is None or base.shape != (up.shape[0], down.shape[1]):
            raise InputError(
                f"the weights must hold this one with shape {[up.shape[0], down.shape[1]]}",
                got="none" if base is None else list(base.shape),
                where=one.weight,
            )
        added_weight = one.scale * (up.astype(np.float64) @ down.astype(np.float64))
        merged[one.weight] = (base.astype(np.float64) + added_weight).astype(base.dtype)
    return merged
