"""The frame that carries one coded tensor: what it is, for which tables, of what shape, and whether it is whole.

    byte 0        0x54
    byte 1        version (high half), codec (low half)
    byte 2        number of axes (high half), flags (low half)
    bytes 3-5     the first three bytes of the SHA-256 of the coder's tables
    then          axes as varints, the first left out where flag 1 says it is 1
    then          payload
    last 4 bytes  CRC-32 of everything before, little-endian

For one item with three axes below 16,384 these are at most 16 bytes beside the payload.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from tierwise._errors import InputError

__all__ = ["MAGIC", "MOST_ELEMENTS", "VERSION", "Frame", "read_frame", "read_varint", "write_varint"]

MAGIC: Final = 0x54
VERSION: Final = 1
MOST_ELEMENTS: Final = 1 << 26
"""Elements of the largest tensor that a frame may stand for."""
TAG_BYTES: Final = 3
"""Bytes of a hash that a frame names its tables by."""
_HEAD, _CRC = 3 + TAG_BYTES, 4
_ONE_ITEM: Final = 1
MOST_AXES: Final = 8
_LARGEST_AXIS: Final = 1 << 31


@final
@dataclass(frozen=True)
class Frame:
    """A coded tensor.

    Attributes:
        codec: Number of the codec, 0 to 15.
        tag: The first three bytes of the SHA-256 of the coder's tables.
        shape: Axes of the tensor, batch first; for a prefix of the channels, those that are sent.
        payload: What the codec made.
        flags: Three bits of the codec's own, 0 to 7.
    """

    codec: int
    tag: bytes
    shape: tuple[int, ...]
    payload: bytes
    flags: int = 0

    def is_of(self, codec: int, tag: bytes) -> bool:
        """Whether the codec of that number, with tables of that SHA-256, made it."""
        return self.codec == codec and self.tag == tag[:TAG_BYTES]

    def encode(self) -> bytes:
        """The bytes that travel."""
        one = bool(self.shape) and self.shape[0] == 1
        axes = self.shape[1:] if one else self.shape
        body = b"".join(
            (
                bytes((MAGIC, VERSION << 4 | self.codec, len(self.shape) << 4 | self.flags << 1 | one)),
                self.tag,
                *(write_varint(axis) for axis in axes),
                self.payload,
            )
        )
        return body + zlib.crc32(body).to_bytes(_CRC, "little")


def read_frame(content: bytes | memoryview) -> Frame:
    """The frame in ``content``.

    Raises:
        InputError: The bytes are no frame, one of another version, or damaged.
    """
    view = memoryview(content)
    if len(view) < _HEAD + _CRC or view[0] != MAGIC:
        raise InputError("the bytes must be a frame of coded features", got=f"{len(view)} bytes, {bytes(view[:4])!r}")
    version = view[1] >> 4
    if version != VERSION:
        raise InputError(
            f"a frame must be of version {VERSION}", got=version, fix="Bring both sides to the same release"
        )
    if zlib.crc32(view[:-_CRC]).to_bytes(_CRC, "little") != view[-_CRC:]:
        raise InputError("a frame must arrive as it was sent", got="a wrong checksum")
    rank, flags = view[2] >> 4, view[2] & 0xF
    if rank > MOST_AXES:
        raise InputError(f"a frame must have at most {MOST_AXES} axes", got=rank)
    one = flags & _ONE_ITEM
    if one and not rank:
        raise InputError("a frame without axes cannot hold one item")
    axes, at = [1] * one, _HEAD
    end = len(view) - _CRC
    for _ in range(rank - one):
        axis, at = read_varint(view, at, end)
        axes.append(axis)
    return Frame(view[1] & 0xF, bytes(view[3:_HEAD]), tuple(axes), bytes(view[at:end]), flags >> 1)


def write_varint(value: int) -> bytes:
    """``value`` in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(content: memoryview | bytes, at: int, end: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends.

    Raises:
        InputError: It is cut off or beyond what an axis can be.
    """
    value = shift = 0
    while at < end and shift < 35:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _LARGEST_AXIS:
                break
            return value, at
        shift += 7
    raise InputError("a number in a frame must be whole and below 2^31")


def check_count(shape: Sequence[int], most: int = MOST_ELEMENTS) -> None:
    """A frame's tensor is of a size that can be given to it, also where one of its axes is 0.

    Raises:
        InputError: More than ``most``: whoever sent the frame shall not decide how much memory it takes.
    """
    count = 1
    for axis in shape:
        count *= max(1, axis)
        if count > most:
            raise InputError(f"a frame must hold at most {most:,} elements", got=list(shape))
