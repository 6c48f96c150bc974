"""What a node and the process that trains for it say to each other over a pipe: JSON, and bytes behind it.

They are of different rooms, which do not know each other; this is all they agree on.
"""

from __future__ import annotations

import struct
from typing import IO, Any, Final, Literal, TypeVar, final

import msgspec

from tierwise._config import Spec
from tierwise._errors import TierwiseError
from tierwise.artifact import InputLimits
from tierwise.wire._limits import TensorLimits
from tierwise.wire._training import TrainingOrder, TrainingProgress, TrainingVerb

__all__ = ["CHECKPOINT", "WEIGHTS", "TrainerAsk", "TrainerCharge", "TrainerTold", "read_note", "write_note"]

CHECKPOINT: Final = "checkpoint.safetensors"
"""Name of the checkpoint in a training's folder."""

WEIGHTS: Final = "served.weights"
"""Name of the file of the weights that are served: a ``ModelInferResponse`` of the trained tensors, whose ``id`` is the
artifact's digest and whose parameter ``steps`` says how many steps made them."""

_HEAD: Final = struct.Struct("<II")

Note = TypeVar("Note", bound=Spec)


@final
class TrainerCharge(Spec, frozen=True, kw_only=True):
    """The first thing the process is told.

    Attributes:
        artifact: Directory of the artifact.
        folder: Where checkpoint and weights lie; it exists.
        order: How to train.
        items: Folder of pictures, absolute; None: batches are sent.
        again: Whether this is the same training as before, after its process ended.
        busy: Open file of one byte: how many requests the node has under way.
        tensors: What a batch may hold.
        inputs: What its pictures and texts may become.
    """

    artifact: str
    folder: str
    order: TrainingOrder
    items: str | None
    again: bool
    busy: int
    tensors: TensorLimits
    inputs: InputLimits


@final
class TrainerAsk(Spec, frozen=True, kw_only=True):
    """One thing the process is asked for; what a batch or a delta holds comes behind it.

    Attributes:
        id: Stands in the answer.
        verb: What.
        step: Steps the sender of a batch believes were taken; None: does not matter.
    """

    id: int
    verb: TrainingVerb | Literal["batch", "leave"]
    step: int | None = None


@final
class TrainerTold(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """What the process says; a delta comes behind it.

    Attributes:
        progress: How far it is.
        id: What it answers; 0: nothing that was asked.
        loss: Of a batch.
        swapped: Whether the file of weights is new.
        error: Why not.
        fault: Whose fault that is: ``asker``, ``node`` (a library is missing) or ``unknown``.
        final: Whether the process ends with it. Where it is the fault of the asker or the node, the next would too.
    """

    progress: TrainingProgress
    id: int = 0
    loss: float = 0.0
    swapped: bool = False
    error: str = ""
    fault: Literal["asker", "node", "unknown"] = "unknown"
    final: bool = False


def write_note(file: IO[bytes], note: Spec, content: bytes = b"") -> None:
    """Send a note and the bytes behind it."""
    head = msgspec.json.encode(note)
    file.write(b"".join((_HEAD.pack(len(head), len(content)), head, content)))
    file.flush()


def read_note(file: IO[bytes], kind: type[Note]) -> tuple[Note, bytes] | None:
    """The next note and the bytes behind it; None where the other side has ended, be it in the middle of one.

    Raises:
        TierwiseError: What came is no such note.
    """
    sizes = _exactly(file, _HEAD.size)
    if sizes is None:
        return None
    head_bytes, content_bytes = _HEAD.unpack(sizes)
    head, content = _exactly(file, head_bytes), _exactly(file, content_bytes)
    if head is None or content is None:
        return None
    try:
        return msgspec.json.decode(head, type=kind), content
    except msgspec.DecodeError as error:
        raise TierwiseError(f"the pipe to the training process must bring notes ({error})") from error


def _exactly(file: IO[Any], size: int) -> bytes | None:
    content: bytes = file.read(size) if size else b""
    return content if len(content) == size else None
