"""What all codecs have in common, and the frames they travel in."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.codecs._frame import MOST_AXES, MOST_ELEMENTS, TAG_BYTES, Frame, check_count, read_frame

__all__ = ["Codec", "decode", "encode"]


class Codec(Protocol):
    """Turns feature tensors into bytes and back; both sides hold the same tables.

    Attributes:
        tag: SHA-256 of its tables.
    """

    tag: bytes

    @property
    def NUMBER(self) -> int:  # noqa: N802 - a constant in those that have it
        """Which codec, in frames."""

    def pack(self, tensor: npt.NDArray[Any]) -> tuple[bytes, int]:
        """Payload and flags (0 to 7) of a tensor [n, c, ...]."""

    def unpack(self, payload: bytes, flags: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The tensor of a payload; ``shape`` is that of what was packed."""


def encode(codec: Codec, tensor: npt.NDArray[Any], channels: int | None = None, tag: bytes | None = None) -> bytes:
    """A tensor as a frame.

    Args:
        codec: How.
        tensor: [n, c, ...], of 2 to 8 axes.
        channels: Send only so many of the channels, the first ones; None: all.
        tag: SHA-256 of what holds the tables, where that is more than they; None: of the tables.

    Raises:
        InputError: The codec cannot take the tensor, or no frame can.
    """
    if not 2 <= tensor.ndim <= MOST_AXES:
        raise InputError(f"a frame must hold a tensor [items, channels, ...] of 2 to {MOST_AXES} axes", got=tensor.ndim)
    if channels is not None and not 0 <= channels <= tensor.shape[1]:
        raise InputError(f"the channels sent must be 0 to {tensor.shape[1]}", got=channels)
    check_count(tensor.shape)
    sent = tensor if channels is None else tensor[:, :channels]
    payload, flags = codec.pack(sent)
    return Frame(codec.NUMBER, (tag or codec.tag)[:TAG_BYTES], sent.shape, payload, flags).encode()


def decode(
    codec: Codec,
    content: bytes | memoryview,
    most_elements: int = MOST_ELEMENTS,
    tag: bytes | None = None,
) -> npt.NDArray[np.float32]:
    """The tensor in a frame.

    Args:
        codec: How.
        content: The frame.
        most_elements: Largest tensor to decode. A few bytes can stand for a tensor of the largest size, which a machine
            without the fast coder decodes for a minute: where frames come from strangers, say what is expected.
        tag: As for `encode`.

    Raises:
        InputError: Not a frame, damaged, too large, of another codec or of other tables.
    """
    frame = read_frame(content)
    if not frame.is_of(codec.NUMBER, tag or codec.tag):
        raise InputError(
            "a frame must come from the codec and the tables that shall read it",
            got=f"codec {frame.codec}, tables {frame.tag.hex()}",
            fix="Deploy both parts from one artifact",
        )
    check_count(frame.shape, most_elements)
    return codec.unpack(frame.payload, frame.flags, frame.shape)
