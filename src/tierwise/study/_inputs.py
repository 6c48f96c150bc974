"""The inputs that requests are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.artifact import PAYLOAD_INPUT, TensorInput, to_payload
from tierwise.tasks import Task

__all__ = ["Inputs", "choose_inputs"]


@final
@dataclass(frozen=True)
class Inputs:
    """The inputs that requests are made of, from the validation split, in memory before anything is timed.

    Attributes:
        requests: For each input the tensors a client sends.
        tensors: For each input the tensors the model gets.
        labels: Class of each; -1 for a picture with boxes, whose answer is not simply right or wrong.
    """

    requests: tuple[Mapping[str, npt.NDArray[Any]], ...]
    tensors: tuple[Mapping[str, npt.NDArray[Any]], ...]
    labels: tuple[int, ...]

    @property
    def mean_bytes(self) -> int:
        """Mean size of a request's content as the device holds it."""
        return round(
            sum(_nbytes(tensor) for request in self.requests for tensor in request.values()) / len(self.labels)
        )


def choose_inputs(task: Task, count: int, seed: int) -> Inputs:
    """``count`` inputs drawn from the validation split without replacement (all, where there are fewer).

    Raises:
        InputError: The split is empty, or an item does not fit the encoding.
    """
    split = task.splits["validation"]
    if not len(split):
        raise InputError("the validation split must hold items to make requests of", got="none", where=task.name)
    chosen = split.take(stream(seed, "inputs").permutation(len(split))[:count])
    requests: list[Mapping[str, npt.NDArray[Any]]] = []
    for item in chosen.items:
        if isinstance(task.encoding, TensorInput):
            requests.append(task.tensors([item]))
        else:
            requests.append({PAYLOAD_INPUT: to_payload(task.encoding, [item])})
    return Inputs(
        requests=tuple(requests),
        tensors=tuple(task.tensors([item]) for item in chosen.items),
        labels=tuple(int(label) if np.ndim(label) == 0 else -1 for label in chosen.labels),
    )


def _nbytes(tensor: npt.NDArray[Any]) -> int:
    return sum(len(element) for element in tensor.ravel()) if tensor.dtype == object else tensor.nbytes
