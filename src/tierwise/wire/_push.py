"""Loading a model through the repository extension: files of any size, put into the request and taken out in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from google.protobuf.message import DecodeError

from tierwise._errors import InputError
from tierwise.wire._frames import Buffer, encode_field, message_fields
from tierwise.wire._stubs import open_inference_pb2 as protocol

__all__ = ["Push", "decode_push"]

_FILE: Final = "file:1/"
_CONFIG: Final = "config"

_PARAMETERS: Final = protocol.RepositoryModelLoadRequest.PARAMETERS_FIELD_NUMBER
_KEY, _VALUE = 1, 2  # of every map entry
_BYTES: Final = protocol.ModelRepositoryParameter.BYTES_PARAM_FIELD_NUMBER


@final
@dataclass(frozen=True)
class Push:
    """What a ``RepositoryModelLoadRequest`` says.

    Attributes:
        model: The name to serve it under.
        config: How to serve it, JSON text; None where not said.
        files: Contents by file name, of version 1.
    """

    model: str
    config: bytes | None
    files: Mapping[str, Buffer]

    def encode(self) -> bytes:
        """The bytes that travel."""
        head = protocol.RepositoryModelLoadRequest(model_name=self.model)
        if self.config is not None:
            head.parameters[_CONFIG].string_param = self.config.decode()
        parts: list[Buffer] = [head.SerializeToString()]
        for name, content in self.files.items():
            key = encode_field(_KEY, (f"{_FILE}{name}".encode(),))
            value = encode_field(_VALUE, encode_field(_BYTES, (content,)))
            parts += encode_field(_PARAMETERS, (*key, *value))
        return b"".join(parts)


def decode_push(content: bytes) -> Push:
    """The inverse of `Push.encode`; files share the memory of ``content``.

    Raises:
        InputError: The bytes are not such a message, or hold a parameter that is neither ``config`` nor a file.
    """
    files: dict[str, Buffer] = {}
    rest, kept, view = [], 0, memoryview(content)
    for field in message_fields(content, 0, len(content)):
        if field.number == _PARAMETERS and field.delimited:
            named = _file(view, field.first, field.end)
            if named is not None:
                if named[0] in files:
                    raise InputError("a file must be sent once", got=repr(named[0][:200]))
                files[named[0]] = named[1]
                rest.append(view[kept : field.start])
                kept = field.end
    rest.append(view[kept:])
    try:
        head = protocol.RepositoryModelLoadRequest.FromString(b"".join(rest))
    except DecodeError as error:
        raise InputError(f"the bytes must be a RepositoryModelLoadRequest ({error})") from error
    unknown = sorted(set(head.parameters) - {_CONFIG})
    if unknown:
        raise InputError(f"parameters must be {_CONFIG!r} or '{_FILE}NAME'", got=repr(unknown[0]))
    config = head.parameters.get(_CONFIG)
    return Push(head.model_name, None if config is None else config.bytes_param or config.string_param.encode(), files)


def _file(view: memoryview, start: int, end: int) -> tuple[str, memoryview] | None:
    """Name and content of a file's map entry; None for any other entry."""
    key, content = b"", view[:0]
    for part in message_fields(view, start, end):
        if part.number == _KEY and part.delimited:
            key = bytes(view[part.first : part.end])
        elif part.number == _VALUE and part.delimited:
            for choice in message_fields(view, part.first, part.end):
                if choice.number == _BYTES and choice.delimited:
                    content = view[choice.first : choice.end]
    try:
        name = key.decode()
    except UnicodeDecodeError as error:
        raise InputError("names of parameters must be UTF-8", got=repr(key[:80])) from error
    return (name.removeprefix(_FILE), content) if name.startswith(_FILE) else None
