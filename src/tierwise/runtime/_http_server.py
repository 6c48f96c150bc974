"""Serves an ASGI application beside gRPC: uvicorn on a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast, final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tierwise._errors import UnavailableError

__all__ = ["http_server"]

# The head of a request must arrive within this time after the connection is open or the last answer was sent.
_HEAD_S: Final = 20.0
_GRACE_S: Final = 2
# What comes beside a body's own bytes (a head, chunks' lengths, trailers) may be so large. The parser has no bound
# and keeps all of it.
_HEAD_BYTES: Final = 64 << 10
# A client that takes less than this of an answer within the time is let go, and the answer with it.
_READ_S, _READ_BYTES = 20.0, 10_000
# Above this size a copy costs more than a second system call.
_JOINED_BYTES: Final = 64 << 10


@contextlib.contextmanager
def http_server(
    app: Any, addresses: Sequence[str], *, tls: ssl.SSLContext | None = None, most_connections: int = 1024
) -> Iterator[list[str]]:
    """Serve ``app`` until the block is left; requests under way are then answered within a moment.

    Args:
        app: An ASGI application.
        addresses: ``host:port`` (port 0: the system picks one) or ``unix:/path``.
        tls: How connections are secured; None: they are not.
        most_connections: Where there are more, those that ask nothing are let go, the one that was silent longest
            first; where all ask, further ones are answered 503.

    Yields:
        The addresses as URLs, with the real ports.

    Raises:
        UnavailableError: An address cannot be listened on.
    """
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(_listen(address)) for address in addresses]
        config = uvicorn.Config(
            app,
            http=_PatientProtocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=most_connections,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_context_factory=None if tls is None else (lambda config, default: tls),
        )
        # What it has to say about single bad requests is no news to whoever runs the node.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=(sockets,), name="http", daemon=True)
        thread.start()
        try:
            scheme = "http" if tls is None else "https"
            yield [_url(scheme, address, one) for address, one in zip(addresses, sockets, strict=True)]
        finally:
            server.should_exit = True
            thread.join(_GRACE_S + 5)
            for address in addresses:
                if address.startswith("unix:"):
                    Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def _listen(address: str) -> socket.socket:
    one: socket.socket | None = None
    try:
        if address.startswith("unix:"):
            one = socket.socket(socket.AF_UNIX)
            path = address.removeprefix("unix:")
            _forget_dead_socket(path)
            one.bind(path)
        else:
            host, _, port = address.rpartition(":")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            # Named as TCP, or asyncio would leave Nagle's algorithm on and every answer would wait 40 ms for it.
            one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host.strip("[]"), int(port)))
        one.listen(1024)
    except (OSError, OverflowError) as error:
        if one is not None:
            one.close()
        raise UnavailableError(
            f"the node must be able to listen there ({error})",
            where=address,
            fix="Give a free HOST:PORT of this machine (port 0 picks one) or unix:PATH in a folder that exists",
        ) from error
    return one


def _forget_dead_socket(path: str) -> None:
    """Remove what a killed server left; one that still answers stays, and binding fails."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def _url(scheme: str, address: str, one: socket.socket) -> str:
    if address.startswith("unix:"):
        return address
    return f"{scheme}://{address.rpartition(':')[0]}:{one.getsockname()[1]}"


@final
class _PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with a limit to its patience with clients that ask nothing, or drop by drop."""

    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _beside_bytes = 0
    _in_head = False

    def connection_made(self, transport: Any) -> None:
        """A client connected."""
        super().connection_made(transport)
        self._make_room()
        self._expect_head()
        certificate = transport.get_extra_info("peercert") or {}
        names = tuple(name for _, name in certificate.get("subjectAltName", ())) + tuple(
            value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"
        )
        self.app_state = {**self.app_state, "certificate_names": names}

    def _make_room(self) -> None:
        """Let some go that ask nothing where there are too many; uvicorn would refuse the requests of all."""
        if self.limit_concurrency is None or len(self.connections) < self.limit_concurrency:
            return
        others = [one for one in self.connections if isinstance(one, _PatientProtocol) and one is not self]
        # Those that never sent a whole head go before those that asked and were answered.
        never = [(one._head.when(), id(one), one) for one in others if one._head is not None]
        waits = [(one, one.timeout_keep_alive_task) for one in others]
        silent = never or [(task.when(), id(one), one) for one, task in waits if task is not None]
        # Several at once: a flood shall not cost a search for each of its connections.
        for _, _, one in sorted(silent)[: max(1, self.limit_concurrency // 16)]:
            self.connections.discard(one)
            one._let_go()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._beside_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head is None:  # most heads come whole, and need no clock
            self._expect_head()
        if self._beside_bytes > _HEAD_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.send_400_response(f"What comes beside a body must have at most {_HEAD_BYTES:,} bytes.")
            else:
                self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Some of them were of a body."""
        self._beside_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """They were the last of a request."""
        self._beside_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client takes an answer more slowly than it is made."""
        super().pause_writing()
        self._watch_reader(None)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_watching()

    def timeout_keep_alive_handler(self) -> None:
        """It has asked nothing for long; what it has not taken by now would keep the connection for ever."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _watch_reader(self, before_bytes: int | None) -> None:
        left_bytes = self.transport.get_write_buffer_size()
        if before_bytes is not None and before_bytes - left_bytes < _READ_BYTES:
            self.transport.abort()
            return
        self._reading = self.loop.call_later(_READ_S, self._watch_reader, left_bytes)

    def _stop_watching(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._stop_waiting()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Its head is here."""
        self._stop_waiting()
        self._in_head = False
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, _OneWrite(self.loop, self.transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._head = self.loop.call_later(_HEAD_S, self._let_go)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _let_go(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


@final
class _OneWrite:
    """A transport that sends an answer's head together with what follows it at once: uvicorn writes them one by one.

    That is one system call, one segment and one wake-up of the client less for every answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop, self._transport = loop, transport
        self._held: bytes | None = None
        self._begun = False

    def write(self, content: bytes) -> None:
        """Send ``content``; the first waits for the second until the loop comes round."""
        if not self._begun:
            self._begun, self._held = True, content
            self._loop.call_soon(self.flush)
        elif self._held is None or len(content) > _JOINED_BYTES:
            self.flush()
            self._transport.write(content)
        else:
            held, self._held = self._held, None
            self._transport.write(held + content)

    def flush(self) -> None:
        """Send what waits."""
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)

    def close(self) -> None:
        """Close it once all is sent."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        closing: bool = self._transport.is_closing()
        return closing
