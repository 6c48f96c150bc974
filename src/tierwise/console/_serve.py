"""The console as a process that serves until it is told to stop."""

from __future__ import annotations

import socket
import threading
from typing import Final

import uvicorn

from tierwise._errors import UnavailableError
from tierwise._signals import Signals
from tierwise.console._app import console_app
from tierwise.console._spec import ConsoleSpec

__all__ = ["serve_console"]

_GRACE_S: Final = 2


def serve_console(spec: ConsoleSpec) -> None:
    """Serve until SIGTERM or SIGINT; must be called from the main thread.

    Prints ``tierwise console on http://HOST:PORT/`` when it listens, with the real port.

    Raises:
        UnavailableError: The address cannot be listened on.
    """
    host, _, port = spec.listen.rpartition(":")
    host = host.strip("[]")
    try:
        listening = socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            f"the console must be able to listen there ({error})",
            where=spec.listen,
            fix="Give a free HOST:PORT of this machine with --listen (port 0 picks one)",
        ) from error
    with Signals() as signals, listening:
        shown = f"[{host}]" if ":" in host else host
        print(f"tierwise console on http://{shown}:{listening.getsockname()[1]}/", flush=True)
        _serve(spec, listening, signals)


def _serve(spec: ConsoleSpec, listening: socket.socket, signals: Signals) -> None:
    ended = threading.Event()
    config = uvicorn.Config(
        console_app(spec, ended.is_set),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=100,
    )
    server = uvicorn.Server(config)

    def run() -> None:
        try:
            server.run(sockets=[listening])
        finally:
            signals.end()

    # Beside the main thread the server leaves signals alone, so that being told to stop is no failure.
    thread = threading.Thread(target=run, name="console")
    thread.start()
    signals.wait()
    ended.set()
    server.should_exit = True
    thread.join()
