"""Latents as they are: 32-bit floats."""

from __future__ import annotations

import hashlib
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError

__all__ = ["RawCodec"]


@final
class RawCodec:
    """Four bytes a value, little-endian; nothing is lost."""

    NUMBER: Final = 1

    def __init__(self) -> None:
        self.tag = hashlib.sha256(b"").digest()

    def pack(self, tensor: npt.NDArray[Any]) -> tuple[bytes, int]:
        """Payload and flags."""
        return np.ascontiguousarray(tensor, "<f4").tobytes(), 0

    def unpack(self, payload: bytes, flags: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The tensor of a payload.

        Raises:
            InputError: The payload does not fill the shape.
        """
        count = int(np.prod(shape, dtype=np.int64))
        if len(payload) != 4 * count:
            raise InputError(f"{count} values must come as {4 * count} bytes", got=len(payload))
        return np.frombuffer(payload, "<f4").reshape(shape)
