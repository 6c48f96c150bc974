"""Where the items of a request are: on their way through the segments, or gone at an exit with their answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import TierwiseError
from tierwise.artifact import Exit, TensorSpec

__all__ = ["Passage", "leaving", "merge", "rows_of", "split"]

Tensors = dict[str, npt.NDArray[Any]]


@final
@dataclass(frozen=True)
class Passage:
    """A request behind some segments.

    Attributes:
        tensors: What the next segment needs (behind the last: the answer), for the items that have not left; empty
            where all have.
        left: Which items of the request left at an exit, bool [n]; None where the segments have no exit.
        answers: The model's outputs for the items that left, in their order.
        weights: Label of the learnt weights that computed it; None: the artifact's own.
    """

    tensors: Tensors
    left: npt.NDArray[np.bool_] | None = None
    answers: Tensors | None = None
    weights: str | None = None

    @property
    def all_left(self) -> bool:
        """Whether nothing goes on; a request without items goes all the way, for answers of the right shape."""
        return self.left is not None and self.left.size > 0 and bool(self.left.all())

    @property
    def exit_frac(self) -> float | None:
        """Share of the items that left; None where the segments have no exit."""
        return None if self.left is None else float(self.left.sum() / max(1, self.left.size))


def leaving(exit: Exit, made: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Which of the items of a segment's outputs leave at its exit."""
    leave: npt.NDArray[np.bool_] = made[exit.confidence].reshape(-1) >= exit.threshold
    return leave


def rows_of(
    specs: Sequence[TensorSpec], tensors: Mapping[str, npt.NDArray[Any]], chosen: npt.NDArray[np.bool_]
) -> Tensors:
    """The chosen items of the tensors that ``specs`` names; one without a batch axis stays as it is."""
    picked = {}
    for spec in specs:
        if spec.name in tensors:
            array = tensors[spec.name]
            picked[spec.name] = np.compress(chosen, array, axis=spec.shape.index(-1)) if -1 in spec.shape else array
    return picked


def merge(
    specs: Sequence[TensorSpec],
    left: npt.NDArray[np.bool_],
    answers: Mapping[str, npt.NDArray[Any]],
    rest: Mapping[str, npt.NDArray[Any]],
) -> Tensors:
    """One answer, in the order of the request, from that of the items that left and that of the others.

    Args:
        specs: Outputs of the model to merge.
        left: Which items left.
        answers: Theirs.
        rest: Of the others; may be empty where none went on.
    """
    if left.all() or not left.any():
        return {spec.name: (rest if rest and not left.any() else answers)[spec.name] for spec in specs}
    merged = {}
    for spec in specs:
        axis = spec.shape.index(-1)
        shape = list(rest[spec.name].shape)
        shape[axis] = len(left)
        whole = np.empty(shape, rest[spec.name].dtype)
        turned = np.moveaxis(whole, axis, 0)
        turned[left] = np.moveaxis(answers[spec.name], axis, 0)
        turned[~left] = np.moveaxis(rest[spec.name], axis, 0)
        merged[spec.name] = whole
    return merged


def split(passage: Passage, sizes: Sequence[int]) -> list[Passage]:
    """The passages of several requests that went through the segments together, one behind the other.

    Args:
        passage: Of all of them; every tensor has the batch axis first.
        sizes: Items of each.

    Raises:
        TierwiseError: A tensor does not have one row for each item: the model cannot be asked for several at once.
    """
    ends = np.cumsum(sizes)
    left = np.zeros(ends[-1], np.bool_) if passage.left is None else passage.left
    answers = passage.answers or {}
    for tensors, rows in ((passage.tensors, int((~left).sum())), (answers, int(left.sum()))):
        for name, array in tensors.items():
            if len(array) != rows:
                raise TierwiseError(f"a batch of {rows} items must give {rows} rows", got=len(array), where=name)
    parts, gone, stayed = [], 0, 0
    for end, size in zip(ends, sizes, strict=True):
        own = left[end - size : end]
        leave = int(own.sum())
        stay = size - leave
        parts.append(
            Passage(
                {name: array[stayed : stayed + stay] for name, array in passage.tensors.items()}
                if stay or not leave
                else {},
                None if passage.left is None else own,
                {name: array[gone : gone + leave] for name, array in answers.items()},
                passage.weights,
            )
        )
        gone, stayed = gone + leave, stayed + stay
    return parts
