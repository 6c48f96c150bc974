"""Loading a model over REST: the repository extension's request, with files as base64 among its parameters."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from tierwise._errors import InputError
from tierwise.wire._push import Push

__all__ = ["rest_push"]

_FILE: Final = "file:1/"


class _Asked(msgspec.Struct):
    parameters: dict[str, Any] = {}


_ASKED = msgspec.json.Decoder(_Asked)


def rest_push(model: str, body: bytes) -> Push:
    """What a load request says; an empty body says nothing but the name.

    Args:
        model: The name, from the path.
        body: JSON ``{"parameters": {"config": "...", "file:1/NAME": "base64"}}``.

    Raises:
        InputError: The body is not such a request.
    """
    try:
        asked = _ASKED.decode(body) if body else _Asked()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body must be JSON of a load request ({error})") from error
    config: bytes | None = None
    files: dict[str, bytes] = {}
    for key, value in asked.parameters.items():
        if not isinstance(value, str):
            raise InputError("parameters of a load request must be texts", got=type(value).__name__, where=key[:200])
        if key == "config":
            config = value.encode("utf-8", "surrogatepass")
        elif key.startswith(_FILE):
            files[key.removeprefix(_FILE)] = _content(key, value)
        else:
            raise InputError(f"a parameter of a load request must be config or {_FILE}NAME", got=repr(key[:200]))
    return Push(model, config, files)


def _content(key: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"a file must come as base64 ({error})", where=key[:200]) from error
