"""What the REST front reads from ASGI's messages, whatever the path: who asks, headers, the body; and its refusals."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from tierwise._errors import InputError
from tierwise.runtime._guard import Peer, Principal
from tierwise.runtime._refusal import Code, RefusalError

__all__ = ["JSON", "Answering", "as_json", "headers_of", "length_of", "peer_of", "read_body", "refused"]

JSON: Final = "application/json"

Answering = Callable[[Request, Principal], Awaitable[Response]]
"""What answers the requests of one path and verb, once the guard has said who asks."""

_STATUS: Final = {
    Code.INVALID: 400,
    Code.NOT_FOUND: 404,
    Code.UNSUITED: 409,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.TOO_LARGE: 413,
    Code.FULL: 507,
    Code.EXHAUSTED: 503,
    Code.TOO_LATE: 504,
    Code.UNAVAILABLE: 503,
    Code.INTERNAL: 500,
}

# A body must arrive within this time; a client that sends it drop by drop is let go.
_BODY_S: Final = 60.0


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers, names in lower case; of one that comes twice the first counts."""
    return dict(reversed(scope["headers"]))


def peer_of(scope: Scope, headers: Mapping[bytes, bytes]) -> Peer:
    """Who asks, as far as the connection and the headers tell."""
    header = headers.get(b"authorization", b"").decode("latin-1")
    token = header[7:].strip() if header[:7].lower() == "bearer " else None
    names = scope.get("state", {}).get("certificate_names", ())
    # Browsers say where a page came from with everything that could change something, and pages cannot leave it out.
    web = b"origin" in headers or b"sec-fetch-site" in headers
    client = scope.get("client")
    if client is None or not client[0]:
        return Peer("unix:", True, token, names, web)
    return Peer(f"{client[0]}:{client[1]}", _is_loopback(client[0]), token, names, web)


@functools.lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, most_bytes: int) -> bytes:
    """The whole body of a request.

    Raises:
        RefusalError: It is too large, does not come in time, or its client is gone.
        InputError: The header that tells its length tells none.
    """
    if (length_of(headers.get(b"content-length")) or 0) > most_bytes:
        raise _too_large(most_bytes)
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_S):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    gone = InputError("a client must wait for its answer", got="a closed line")
                    raise RefusalError(Code.INVALID, gone)
                part = message.get("body", b"")
                size += len(part)
                if size > most_bytes:
                    raise _too_large(most_bytes)
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        slow = InputError(f"a request's body must arrive within {_BODY_S:.0f} s", got=f"{size:,} bytes by then")
        raise RefusalError(Code.TOO_LATE, slow) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most_bytes: int) -> RefusalError:
    return RefusalError(
        Code.TOO_LARGE, InputError(f"a request must have at most {most_bytes:,} bytes", fix="Send fewer items")
    )


def length_of(text: bytes | None) -> int | None:
    """A length in a header; None where there is none.

    Raises:
        InputError: It is not a number.
    """
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InputError("a length in a header must be a number of bytes", got=repr(text.decode("latin-1")[:40]))
    return int(text)


def as_json(content: Any, status: int = 200) -> Response:
    """An answer of JSON."""
    return Response(msgspec.json.encode(content), status, media_type=JSON)


def refused(refusal: RefusalError) -> Response:
    """What a client is told of a refusal."""
    response = as_json({"error": refusal.text}, _STATUS[refusal.code])
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s)))
    if refusal.code is Code.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
