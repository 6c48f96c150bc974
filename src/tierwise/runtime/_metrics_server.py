"""``/metrics`` on an address of its own, from a thread beside the node's fronts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tierwise.runtime._metrics_routes import metrics_routes

__all__ = ["metrics_server"]

_MOST_CONNECTIONS = 16


@contextmanager
def metrics_server(listen: str, exposition: Callable[[], bytes]) -> Iterator[str]:
    """Answer ``GET /metrics`` while the block runs.

    Args:
        listen: ``host:port``; port 0: the system picks one.
        exposition: Gives the text.

    Yields:
        The address, with the real port.

    Raises:
        UnavailableError: It cannot be listened on.
    """
    # Here, because who shows no metrics shall not pay for a server.
    from starlette.applications import Starlette

    from tierwise.runtime._http_server import http_server

    app = Starlette(routes=metrics_routes(exposition))
    with http_server(app, [listen], most_connections=_MOST_CONNECTIONS) as urls:
        yield urls[0].removeprefix("http://")
