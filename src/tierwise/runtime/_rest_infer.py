"""Inference over REST: the one path that most requests take, without the layers that serve the others."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from starlette.types import Receive, Scope, Send

from tierwise.runtime._asgi import headers_of, length_of, peer_of, read_body, refused
from tierwise.runtime._call import Answer, Call
from tierwise.runtime._clerks import Told
from tierwise.runtime._desk import Desk
from tierwise.runtime._refusal import RefusalError
from tierwise.wire import (
    Framed,
    RestForm,
    read_parameters,
    rest_answer,
    rest_request,
    rest_response,
    write_parameters,
)

__all__ = ["RestInfer"]

_JSON_BYTES: Final = b"inference-header-content-length"
_TRACE_HEADERS: Final = ((b"traceparent", "traceparent"), (b"tracestate", "tracestate"))
_JSON: Final = (b"content-type", b"application/json")
_BINARY: Final = (b"content-type", b"application/octet-stream")


@final
class RestInfer:
    """``POST v2/models/NAME[/versions/VERSION]/infer`` as an ASGI application.

    Args:
        desk: Who answers.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._returns = desk, _Returns()

    def takes(self, scope: Scope) -> bool:
        """Whether it is what a request asks for."""
        return scope["type"] == "http" and scope["method"] == "POST" and _named(scope) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            content, json_bytes = await self._answer(_named(scope) or ("", ""), scope, receive)
        except Exception as error:
            refusal = error if isinstance(error, RefusalError) else self._desk.refusal(error)
            await refused(refusal)(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(content)), _JSON]
        if json_bytes is not None:
            headers[1:] = _BINARY, (_JSON_BYTES, b"%d" % json_bytes)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, named: tuple[str, str], scope: Scope, receive: Receive) -> tuple[bytes, int | None]:
        """The answer's body, and the length of the JSON in it where binary contents follow."""
        desk, headers = self._desk, headers_of(scope)
        principal = desk.admit(peer_of(scope, headers), "infer")
        body = await read_body(headers, receive, desk.spec.max_message_bytes)
        received_ns = desk.clock.now_ns()
        framed, form = rest_request(*named, body, length_of(headers.get(_JSON_BYTES)), desk.spec.limits.tensors)
        asked, written = framed.message, _Written()
        call = Call(
            model=asked.model_name,
            contents=framed,
            encode=functools.partial(_encode, form, written),
            size_bytes=len(body),
            received_ns=received_ns,
            version=asked.model_version,
            id=asked.id,
            wanted=tuple(output.name for output in asked.outputs),
            parameters=read_parameters(asked.parameters),
            headers={name: headers[key].decode("latin-1") for key, name in _TRACE_HEADERS if key in headers},
            principal=principal,
            front="rest",
        )
        return await self._returns.of(functools.partial(desk.submit, call)), written.json_bytes


def _named(scope: Scope) -> tuple[str, str] | None:
    """The model and the version in the path (empty: the newest); None where it is not the path of inference."""
    match scope["path"].split("/"):
        case ["", "v2", "models", model, "infer"] if model:
            return model, ""
        case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
            return model, version
    return None


@final
@dataclass
class _Written:
    """Length of the JSON in a body that has binary contents behind it."""

    json_bytes: int | None = None


def _encode(form: RestForm, written: _Written, answer: Answer) -> bytes:
    if isinstance(answer.outputs, Framed) or answer.accounted:
        framed = answer.framed()
        write_parameters(framed.message.parameters, answer.told())
        body, written.json_bytes = rest_response(framed, form)
    else:
        # What nearly all are asked for, without a message of gRPC's in between.
        body, written.json_bytes = rest_answer(
            answer.model, answer.version, answer.id, answer.outputs, answer.told(), form
        )
    return body


@final
class _Returns:
    """Answers on their way from the threads that made them to the event loop.

    One wake-up of the loop, which costs system calls on both sides, brings all that are there by then.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._woken = False
        self._made: deque[tuple[asyncio.Future[bytes], bytes | RefusalError]] = deque()

    async def of(self, begin: Callable[[Told], None]) -> bytes:
        """What ``begin`` was told.

        Raises:
            RefusalError: If it was told this.
        """
        loop = asyncio.get_running_loop()
        waits: asyncio.Future[bytes] = loop.create_future()
        begin(functools.partial(self._came, loop, waits))
        return await waits

    def _came(self, loop: asyncio.AbstractEventLoop, waits: asyncio.Future[bytes], made: bytes | RefusalError) -> None:
        with self._mutex:
            self._made.append((waits, made))
            if self._woken or loop.is_closed():
                return
            self._woken = True
        loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._mutex:
            all_made, self._made, self._woken = self._made, deque(), False
        for waits, made in all_made:
            if waits.cancelled():  # its client is gone
                continue
            if isinstance(made, RefusalError):
                waits.set_exception(made)
            else:
                waits.set_result(made)
