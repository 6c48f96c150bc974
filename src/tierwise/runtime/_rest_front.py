"""The REST front: the Open Inference Protocol v2 in paths, JSON and statuses, and nothing about models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tierwise._errors import InputError
from tierwise.runtime._asgi import JSON, Answering, as_json, headers_of, peer_of, read_body, refused
from tierwise.runtime._desk import Desk
from tierwise.runtime._guard import Method, Principal
from tierwise.runtime._openapi import openapi
from tierwise.runtime._refusal import RefusalError
from tierwise.runtime._rest_infer import RestInfer
from tierwise.runtime._rest_training import RestTraining, training_paths
from tierwise.runtime._statistics import ModelStatistics
from tierwise.wire import rest_push

__all__ = ["metrics_app", "rest_app"]

Handler = Callable[[Request], Awaitable[Response]]


def rest_app(desk: Desk) -> ASGIApp:
    """The protocol's paths over a desk, and ``/metrics``, as an ASGI application.

    Args:
        desk: Who answers.
    """
    front = _RestFront(desk)
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    table: tuple[tuple[str, str, Method, Answering], ...] = (
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
        *training_paths(RestTraining(desk)),
        ("/v2/openapi.json", "GET", "server_metadata", front.describe),
        ("/metrics", "GET", "statistics", front.metrics),
    )
    routes = [Route(path, front.guarded(method, answer), methods=[verb]) for path, verb, method, answer in table]
    infer = RestInfer(desk)
    others = _app([*routes, *(Route(f"{base}/infer", infer, methods=["POST"]) for base in (model, version))])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # What most requests ask for is spared the search for its route, and what comes with it.
        await (infer if infer.takes(scope) else others)(scope, receive, send)

    return app


def metrics_app(desk: Desk) -> ASGIApp:
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
class _RestFront:
    """The protocol's methods; one for each path."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def guarded(self, method: Method, answer: Answering) -> Handler:
        """``answer`` behind the guard, with refusals as answers."""

        async def handle(request: Request) -> Response:
            try:
                principal = self._desk.admit(peer_of(request.scope, headers_of(request.scope)), method)
                return await answer(request, principal)
            except RefusalError as refusal:
                return refused(refusal)
            except Exception as error:
                return refused(self._desk.refusal(error))

        return handle

    async def live(self, request: Request, principal: Principal) -> Response:
        """``GET v2/health/live``."""
        return as_json({"live": True})

    async def ready(self, request: Request, principal: Principal) -> Response:
        """``GET v2/health/ready``."""
        ready = self._desk.ready()
        return as_json({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models/NAME[/versions/VERSION]/ready``."""
        name, version = _named(request)
        ready = self._desk.model_ready(name, version)
        return as_json({"name": name, "ready": ready}, 200 if ready else 404)

    async def metadata(self, request: Request, principal: Principal) -> Response:
        """``GET v2``."""
        return as_json(asdict(self._desk.metadata()))

    async def model_metadata(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models/NAME[/versions/VERSION]``."""
        told = self._desk.model_metadata(*_named(request))
        inputs, outputs = (
            [{"name": spec.name, "datatype": spec.dtype, "shape": spec.shape} for spec in specs]
            for specs in (told.inputs, told.outputs)
        )
        about = {"name": told.name, "versions": told.versions, "platform": told.platform}
        return as_json({**about, "inputs": inputs, "outputs": outputs, "properties": told.properties})

    async def statistics(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models[/NAME[/versions/VERSION]]/stats``."""
        told = self._desk.statistics(*_named(request))
        return as_json({"model_stats": [_statistics(model) for model in told]})

    async def index(self, request: Request, principal: Principal) -> Response:
        """``POST v2/repository/index``."""
        body = await read_body(headers_of(request.scope), request.receive, self._desk.spec.max_message_bytes)
        told = await asyncio.to_thread(self._desk.index, _only_ready(body))
        return as_json([asdict(model) for model in told])

    async def load(self, request: Request, principal: Principal) -> Response:
        """``POST v2/repository/models/NAME/load``."""
        body = await read_body(headers_of(request.scope), request.receive, self._desk.spec.limits.push_bytes)
        push = rest_push(_named(request)[0], body)
        await asyncio.to_thread(self._desk.load, push.model, push.config, push.files)
        return as_json({})

    async def unload(self, request: Request, principal: Principal) -> Response:
        """``POST v2/repository/models/NAME/unload``."""
        await read_body(headers_of(request.scope), request.receive, self._desk.spec.max_message_bytes)
        await asyncio.to_thread(self._desk.unload, _named(request)[0])
        return as_json({})

    async def describe(self, request: Request, principal: Principal) -> Response:
        """``GET v2/openapi.json``."""
        return Response(msgspec.json.encode(openapi()), media_type=JSON)

    async def metrics(self, request: Request, principal: Principal) -> Response:
        """``GET metrics``."""
        return Response(self._desk.exposition(), media_type=CONTENT_TYPE_LATEST)


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


async def _not_here(request: Request, error: Exception) -> Response:
    """Paths and verbs that the protocol does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    text = f"{request.method} {request.url.path[:200]} must be in v2/openapi.json"
    return Response(msgspec.json.encode({"error": text}), status, headers, JSON)
