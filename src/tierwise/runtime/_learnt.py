"""Weights that training made, as a served model takes them over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError
from tierwise.wire import decode_response, read_parameters

__all__ = ["Learnt", "read_learnt"]


@final
@dataclass(frozen=True)
class Learnt:
    """Trained tensors that stand in for the artifact's.

    Attributes:
        tensors: By their names in the model.
        label: Which they are: fingerprint of their contents, ``/``, steps that made them. Equal weights have an equal
            fingerprint, wherever and however they came to be.
    """

    tensors: dict[str, npt.NDArray[Any]]
    label: str


def read_learnt(path: Path, digest: str) -> Learnt:
    """The weights in a file that the training process wrote.

    Args:
        path: The file, see `tierwise.wire.WEIGHTS`.
        digest: Of the artifact that they belong to.

    Raises:
        ArtifactError: It is no such file, or of another artifact.
    """
    try:
        framed = decode_response(path.read_bytes())
        tensors, told = framed.tensors(), read_parameters(framed.message.parameters)
    except (OSError, InputError) as error:
        raise ArtifactError(f"the file must hold trained weights ({error})", where=path) from error
    steps = told.get("steps")
    if framed.message.id != digest or not isinstance(steps, int):
        raise ArtifactError(
            f"the weights must be of the artifact {digest[:12]}", got=framed.message.id[:12] or "none", where=path
        )
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(name.encode() + b"\0")
        whole.update(tensor.tobytes())
    return Learnt(tensors, f"{whole.hexdigest()[:12]}/{steps}")
