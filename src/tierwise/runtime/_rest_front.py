"""The REST front: the Open Inference Protocol v2 in paths, JSON and statuses, and nothing about models."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tierwise._errors import InputError
from tierwise.runtime._call import Answer, Call
from tierwise.runtime._desk import Desk
from tierwise.runtime._guard import Method, Peer, Principal
from tierwise.runtime._openapi import openapi
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._statistics import ModelStatistics
from tierwise.wire import (
    RestForm,
    read_parameters,
    rest_push,
    rest_request,
    rest_response,
    write_parameters,
)

__all__ = ["metrics_app", "rest_app"]

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
_JSON: Final = "application/json"
_JSON_BYTES: Final = "inference-header-content-length"

# A body must arrive within this time; a client that sends it drop by drop is let go.
_BODY_S: Final = 60.0

Handler = Callable[[Request], Awaitable[Response]]
Answering = Callable[[Request, Principal], Awaitable[Response]]


def rest_app(desk: Desk) -> Starlette:
    """The protocol's paths over a desk, and ``/metrics``, as an ASGI application.

    Args:
        desk: Who answers.
    """
    front = _RestFront(desk)
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    table: tuple[tuple[str, str, Method, Answering], ...] = (
        *((f"{base}/infer", "POST", "infer", front.infer) for base in (model, version)),
        ("/v2/health/live", "GET", "live", front.live),
        ("/v2/health/ready", "GET", "ready", front.ready),
        ("/v2", "GET", "server_metadata", front.metadata),
        ("/v2/models/stats", "GET", "statistics", front.statistics),
        *((f"{base}/ready", "GET", "model_ready", front.model_ready) for base in (model, version)),
        *((f"{base}/stats", "GET", "statistics", front.statistics) for base in (model, version)),
        *((base, "GET", "model_metadata", front.model_metadata) for base in (model, version)),
        ("/v2/repository/index", "POST", "index", front.index),
        ("/v2/repository/models/{model}/load", "POST", "load", front.load),
        ("/v2/repository/models/{model}/unload", "POST", "unload", front.unload),
        ("/v2/openapi.json", "GET", "server_metadata", front.describe),
        ("/metrics", "GET", "statistics", front.metrics),
    )
    routes = [Route(path, front.guarded(method, answer), methods=[verb]) for path, verb, method, answer in table]
    return _app(routes)


def metrics_app(desk: Desk) -> Starlette:
    """``/metrics`` alone, as an ASGI application; under the rules of the other paths.

    Args:
        desk: Who answers.
    """
    front = _RestFront(desk)
    route = Route("/metrics", front.guarded("statistics", front.metrics), methods=["GET"])
    return _app([route])


def _app(routes: list[Route]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_here})
    # It would send clients on to whatever host their request named.
    app.router.redirect_slashes = False
    return app


@final
@dataclass
class _Written:
    """Length of the JSON in a body that has binary contents behind it."""

    json_bytes: int | None = None


@final
class _Returns:
    """Answers on their way from the threads that made them to the event loop.

    One wake-up of the loop, which costs system calls on both sides, brings all that are there by then.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._woken = False
        self._made: deque[tuple[asyncio.Future[bytes], Future[bytes]]] = deque()

    async def of(self, made: Future[bytes]) -> bytes:
        """What ``made`` will hold, or its exception."""
        loop = asyncio.get_running_loop()
        waits: asyncio.Future[bytes] = loop.create_future()
        made.add_done_callback(functools.partial(self._came, loop, waits))
        return await waits

    def _came(self, loop: asyncio.AbstractEventLoop, waits: asyncio.Future[bytes], made: Future[bytes]) -> None:
        with self._mutex:
            self._made.append((waits, made))
            if self._woken or loop.is_closed():
                return
            self._woken = True
        loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._mutex:
            made, self._made, self._woken = self._made, deque(), False
        for waits, future in made:
            if waits.cancelled():  # its client is gone
                continue
            error = future.exception()
            if error is None:
                waits.set_result(future.result())
            else:
                waits.set_exception(error)


@final
class _RestFront:
    """The protocol's methods; one for each path."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._returns = desk, _Returns()

    def guarded(self, method: Method, answer: Answering) -> Handler:
        """``answer`` behind the guard, with refusals as answers."""

        async def handle(request: Request) -> Response:
            try:
                principal = self._desk.admit(_peer(request), method)
                return await answer(request, principal)
            except RefusalError as refusal:
                return _refused(refusal)
            except Exception as error:
                return _refused(self._desk.refusal(error))

        return handle

    async def infer(self, request: Request, principal: Principal) -> Response:
        """``POST v2/models/NAME[/versions/VERSION]/infer``."""
        body = await _body(request, self._desk.spec.max_message_bytes)
        received_ns = self._desk.clock.now_ns()
        told = request.headers.get(_JSON_BYTES)
        params = request.path_params
        limits = self._desk.spec.limits.tensors
        framed, form = rest_request(params["model"], params.get("version", ""), body, _length(told), limits)
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
            headers={key: request.headers[key] for key in ("traceparent", "tracestate") if key in request.headers},
            principal=principal,
            front="rest",
        )
        content = await self._returns.of(self._desk.submit(call))
        if written.json_bytes is None:
            return Response(content, media_type=_JSON)
        headers = {_JSON_BYTES: str(written.json_bytes)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    async def live(self, request: Request, principal: Principal) -> Response:
        """``GET v2/health/live``."""
        return _json({"live": True})

    async def ready(self, request: Request, principal: Principal) -> Response:
        """``GET v2/health/ready``."""
        ready = self._desk.ready()
        return _json({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models/NAME[/versions/VERSION]/ready``."""
        name, version = _named(request)
        ready = self._desk.model_ready(name, version)
        return _json({"name": name, "ready": ready}, 200 if ready else 404)

    async def metadata(self, request: Request, principal: Principal) -> Response:
        """``GET v2``."""
        return _json(asdict(self._desk.metadata()))

    async def model_metadata(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models/NAME[/versions/VERSION]``."""
        told = self._desk.model_metadata(*_named(request))
        inputs, outputs = (
            [{"name": spec.name, "datatype": spec.dtype, "shape": spec.shape} for spec in specs]
            for specs in (told.inputs, told.outputs)
        )
        about = {"name": told.name, "versions": told.versions, "platform": told.platform}
        return _json({**about, "inputs": inputs, "outputs": outputs, "properties": told.properties})

    async def statistics(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models[/NAME[/versions/VERSION]]/stats``."""
        told = self._desk.statistics(*_named(request))
        return _json({"model_stats": [_statistics(model) for model in told]})

    async def index(self, request: Request, principal: Principal) -> Response:
        """``POST v2/repository/index``."""
        body = await _body(request, self._desk.spec.max_message_bytes)
        told = await asyncio.to_thread(self._desk.index, _only_ready(body))
        return _json([asdict(model) for model in told])

    async def load(self, request: Request, principal: Principal) -> Response:
        """``POST v2/repository/models/NAME/load``."""
        push = rest_push(_named(request)[0], await _body(request, self._desk.spec.limits.push_bytes))
        await asyncio.to_thread(self._desk.load, push.model, push.config, push.files)
        return _json({})

    async def unload(self, request: Request, principal: Principal) -> Response:
        """``POST v2/repository/models/NAME/unload``."""
        await _body(request, self._desk.spec.max_message_bytes)
        await asyncio.to_thread(self._desk.unload, _named(request)[0])
        return _json({})

    async def describe(self, request: Request, principal: Principal) -> Response:
        """``GET v2/openapi.json``."""
        return Response(msgspec.json.encode(openapi()), media_type=_JSON)

    async def metrics(self, request: Request, principal: Principal) -> Response:
        """``GET metrics``."""
        return Response(self._desk.exposition(), media_type=CONTENT_TYPE_LATEST)


def _encode(form: RestForm, written: _Written, answer: Answer) -> bytes:
    framed = answer.framed()
    write_parameters(framed.message.parameters, answer.told())
    body, written.json_bytes = rest_response(framed, form)
    return body


async def _body(request: Request, most_bytes: int) -> bytes:
    """The whole body, if it is not too large and comes in time."""
    parts, size = [], 0
    too_large = RefusalError(
        Code.TOO_LARGE, InputError(f"a request must have at most {most_bytes:,} bytes", fix="Send fewer items")
    )
    if (_length(request.headers.get("content-length")) or 0) > most_bytes:
        raise too_large
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > most_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        slow = InputError(f"a request's body must arrive within {_BODY_S:.0f} s", got=f"{size:,} bytes by then")
        raise RefusalError(Code.TOO_LATE, slow) from None
    except ClientDisconnect:
        raise RefusalError(Code.INVALID, InputError("a client must wait for its answer", got="a closed line")) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _length(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InputError("a length in a header must be a number of bytes", got=repr(text[:40]))
    return int(text)


def _only_ready(body: bytes) -> bool:
    try:
        asked = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body must be a JSON object ({error})") from error
    ready = asked.get("ready", False)
    if not isinstance(ready, bool):
        raise InputError("ready must be true or false", got=repr(ready)[:80])
    return ready


def _named(request: Request) -> tuple[str, str]:
    return request.path_params.get("model", ""), request.path_params.get("version", "")


def _statistics(model: ModelStatistics) -> dict[str, Any]:
    told = asdict(model)
    parts = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": model.last_inference_ms,
        "inference_count": model.inference_count,
        "execution_count": model.execution_count,
        "inference_stats": {part: told[part] for part in parts},
        "batch_stats": told["batches"],
    }


def _peer(request: Request) -> Peer:
    header = request.headers.get("authorization", "")
    token = header[7:].strip() if header[:7].lower() == "bearer " else None
    names = request.scope.get("state", {}).get("certificate_names", ())
    # Browsers say where a page came from with everything that could change something, and pages cannot leave it out.
    web = "origin" in request.headers or "sec-fetch-site" in request.headers
    if request.client is None or not request.client.host:
        return Peer("unix:", True, token, names, web)
    host = request.client.host
    return Peer(f"{host}:{request.client.port}", _is_loopback(host), token, names, web)


@functools.lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=_JSON)


def _refused(refusal: RefusalError) -> Response:
    response = _json({"error": refusal.text}, _STATUS[refusal.code])
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s)))
    if refusal.code is Code.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _not_here(request: Request, error: Exception) -> Response:
    """Paths and verbs that the protocol does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    text = f"{request.method} {request.url.path[:200]} must be in v2/openapi.json"
    return Response(msgspec.json.encode({"error": text}), status, headers, _JSON)
