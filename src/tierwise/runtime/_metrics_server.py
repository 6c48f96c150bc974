"""``/metrics`` on an address of its own, from a thread beside the node's fronts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tierwise._errors import UnavailableError
from tierwise.runtime._metrics_routes import metrics_routes

__all__ = ["metrics_server"]

_GRACE_S = 1


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
    import uvicorn
    from starlette.applications import Starlette

    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        listening = socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            f"the node must be able to show its metrics there ({error})", where=listen, fix="Give a free HOST:PORT"
        ) from error
    config = uvicorn.Config(
        Starlette(routes=metrics_routes(exposition)),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=16,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="metrics", daemon=True)
    with listening:
        thread.start()
        try:
            yield f"{listen.rpartition(':')[0]}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_GRACE_S + 2)
