"""Training over REST: paths below a model's, with JSON, binary batches and the delta as a file."""

from __future__ import annotations

import asyncio
import functools
from typing import Final, final

from starlette.requests import Request
from starlette.responses import Response

from tierwise.runtime._asgi import JSON, Answering, headers_of, length_of, read_body
from tierwise.runtime._desk import Desk
from tierwise.runtime._guard import Method, Principal
from tierwise.runtime._training_desk import TrainingAsk
from tierwise.wire import Push, rest_request

__all__ = ["RestTraining", "training_paths"]

_JSON_BYTES: Final = b"inference-header-content-length"
_BINARY: Final = "application/octet-stream"
_VERBS: Final[tuple[TrainingAsk, ...]] = ("begin", "save", "swap", "stop")


@final
class RestTraining:
    """The methods of training.

    Args:
        desk: Who answers.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def status(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models/NAME/training``."""
        return await self._told("status", Push(_model(request), None, {}))

    async def do(self, verb: TrainingAsk, request: Request, principal: Principal) -> Response:
        """``POST v2/models/NAME/training/begin`` and its like; the order of ``begin`` is the body."""
        body = await read_body(headers_of(request.scope), request.receive, self._desk.spec.max_message_bytes)
        return await self._told(verb, Push(_model(request), body if verb == "begin" and body else None, {}))

    async def batch(self, request: Request, principal: Principal) -> Response:
        """``POST v2/models/NAME/training/batch``: a request for inference, with labels."""
        spec, headers = self._desk.spec, headers_of(request.scope)
        body = await read_body(headers, request.receive, spec.max_message_bytes)
        framed, _ = rest_request(_model(request), "", body, length_of(headers.get(_JSON_BYTES)), spec.limits.tensors)
        content = await asyncio.to_thread(self._desk.training.batch, framed, spec.max_message_bytes)
        return Response(content, media_type=JSON)

    async def export_delta(self, request: Request, principal: Principal) -> Response:
        """``GET v2/models/NAME/training/delta``: a safetensors file."""
        content = await asyncio.to_thread(self._desk.training.tell, "delta", Push(_model(request), None, {}))
        return Response(content, media_type=_BINARY)

    async def apply_delta(self, request: Request, principal: Principal) -> Response:
        """``POST v2/models/NAME/training/delta``: the body is such a file."""
        body = await read_body(headers_of(request.scope), request.receive, self._desk.spec.limits.push_bytes)
        return await self._told("apply", Push(_model(request), None, {"delta": body}))

    async def _told(self, verb: TrainingAsk, push: Push) -> Response:
        return Response(await asyncio.to_thread(self._desk.training.tell, verb, push), media_type=JSON)


def training_paths(front: RestTraining) -> list[tuple[str, str, Method, Answering]]:
    """Path, verb, what it is to the guard, and who answers it."""
    base = "/v2/models/{model}/training"
    return [
        (base, "GET", "train", front.status),
        *((f"{base}/{verb}", "POST", "train", functools.partial(front.do, verb)) for verb in _VERBS),
        (f"{base}/batch", "POST", "train", front.batch),
        (f"{base}/delta", "GET", "train", front.export_delta),
        (f"{base}/delta", "POST", "train", front.apply_delta),
    ]


def _model(request: Request) -> str:
    name: str = request.path_params["model"]
    return name
