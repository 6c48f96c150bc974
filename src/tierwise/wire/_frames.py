"""The wire format of protobuf, as far as large contents shall not be copied through it.

A message object copies every bytes field when it is built, when it is encoded, when it is decoded and when it is read.
Raw tensor contents are most of a request, so they are taken from its bytes, and put into them, as they are.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tierwise._errors import InputError

__all__ = ["Buffer", "Field", "encode_field", "join_contents", "message_fields", "split_contents"]

Buffer = bytes | memoryview

_DELIMITED: Final = 2


class Field(NamedTuple):
    """Where one field of a message lies in its bytes.

    Attributes:
        number: The field's number.
        delimited: Whether it has a length (strings, bytes, messages, packed numbers).
        start: Its first byte, the tag.
        first: First byte of its value.
        end: End of its value.
    """

    number: int
    delimited: bool
    start: int
    first: int
    end: int


def message_fields(content: Buffer | mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """The fields of the message that lies in ``content[start:end]``, in order.

    Raises:
        InputError: These bytes are not a message.
    """
    at = start
    while at < end:
        begin = at
        tag, at = _varint(content, at, end)
        if not 8 <= tag < 1 << 32:
            # Protobuf's own parsers drop the bits above: they would see another field than is seen here.
            raise InputError("the bytes must be a message of the protocol", got=f"field {tag >> 3} at byte {begin}")
        match tag & 7:
            case 0:
                first, (_, at) = at, _varint(content, at, end)
            case 1:
                first, at = at, at + 8
            case 2:
                size, first = _varint(content, at, end)
                at = first + size
            case 5:
                first, at = at, at + 4
            case other:
                raise InputError(
                    "the bytes must be a message of the protocol", got=f"wire type {other} at byte {begin}"
                )
        if at > end:
            raise InputError("the bytes must be a message of the protocol", got=f"{end - start} bytes, cut off")
        yield Field(tag >> 3, tag & 7 == _DELIMITED, begin, first, at)


def _varint(content: Buffer | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InputError("the bytes must be a message of the protocol", got="a number that is cut off")


def split_contents(content: bytes, number: int) -> tuple[bytes, tuple[memoryview, ...]]:
    """A message without its repeated bytes field ``number``, and the values of that field, which share its memory.

    Raises:
        InputError: The bytes are not a message.
    """
    view, rest, values, kept = memoryview(content), [], [], 0
    for field in message_fields(content, 0, len(content)):
        if field.number == number and field.delimited:
            rest.append(view[kept : field.start])
            values.append(view[field.first : field.end])
            kept = field.end
    rest.append(view[kept:])
    return b"".join(rest), tuple(values)


def join_contents(message: bytes, number: int, values: Sequence[Buffer], *more: bytes) -> bytes:
    """The inverse of `split_contents`; ``more`` are further pieces of the message (fields may come in any order)."""
    parts: list[Buffer] = [message]
    for value in values:
        parts += encode_field(number, (value,))
    return b"".join((*parts, *more))


def encode_field(number: int, value: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """A delimited field in pieces; ``value`` is in pieces too, so that fields can be nested without copying."""
    return (_encode_varint(number << 3 | _DELIMITED) + _encode_varint(sum(map(len, value))), *value)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
