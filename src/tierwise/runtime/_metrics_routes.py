"""``/metrics`` over HTTP, to be mounted in a node's REST front or served on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

__all__ = ["metrics_routes"]


def metrics_routes(exposition: Callable[[], bytes]) -> list[BaseRoute]:
    """Routes for a Starlette application: ``GET /metrics`` in Prometheus' text format.

    Args:
        exposition: Gives the text (`NodeMetrics.exposition`, `ClientMetrics.exposition`).
    """
    from prometheus_client import CONTENT_TYPE_LATEST
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    # Not a coroutine: the text takes milliseconds to make, which the event loop must not wait for.
    def metrics(_: Request) -> Response:
        return Response(exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})

    return [Route("/metrics", metrics, methods=["GET"])]
