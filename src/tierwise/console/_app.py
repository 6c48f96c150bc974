"""The page and what keeps it up to date, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tierwise.console._board import Board
from tierwise.console._host_check import HostCheck
from tierwise.console._spec import ConsoleSpec

__all__ = ["console_app"]

_FILES: Final = {
    "/": ("console.html", "text/html; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
}
_MOST_READERS: Final = 32


def console_app(spec: ConsoleSpec, ended: Callable[[], bool] = lambda: False) -> Starlette:
    """The console as an ASGI application; it looks at the nodes from its start to its end.

    Args:
        spec: What it watches.
        ended: Whether the server is to end: streams end then by themselves.
    """
    board = Board(spec)
    readers = 0

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(board.run())
        try:
            yield
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def events(request: Request) -> Response:
        if readers >= _MOST_READERS:
            return PlainTextResponse("Too many pages are open.\n", 503, {"Retry-After": "10"})
        return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def stream() -> AsyncIterator[bytes]:
        nonlocal readers
        readers += 1
        try:
            yield b"retry: 1000\n\n"
            async for picture in board.pictures(ended):
                yield b"data: " + picture + b"\n\n"  # JSON has no line ends
        finally:
            readers -= 1

    async def picture(_: Request) -> Response:
        if not board.picture:
            return PlainTextResponse("Nothing has been seen yet.\n", 503, {"Retry-After": "1"})
        return Response(board.picture, media_type="application/json")

    routes = [Route(path, _file(*file)) for path, file in _FILES.items()]
    return Starlette(
        routes=[*routes, Route("/events", events), Route("/picture.json", picture)],
        middleware=[Middleware(HostCheck, names=spec.hosts)],
        lifespan=lifespan,
    )


def _file(name: str, media_type: str) -> Callable[[Request], Response]:
    content = files("tierwise.console").joinpath("page", name).read_bytes()

    def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer
