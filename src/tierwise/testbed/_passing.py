"""What a round trip between processes of this machine takes when no link lies between them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Iterator

from tierwise.testbed._native import be_prompt

__all__ = ["passed_on", "quick"]

_PATIENCE_S = 30.0


@contextlib.contextmanager
def passed_on() -> Iterator[socket.socket]:
    """A connection to a process that sends back every byte, through one that only passes bytes on.

    A byte takes as many awakenings that way as over a link that a process carries: this is what this machine takes for
    them now. To be called while no other thread runs, since the two processes are forked.
    """
    children: list[int] = []
    try:
        far = _served(_echo, children)
        address = _served(lambda listener: _pass_on(listener, far), children)
        with socket.create_connection(address, timeout=_PATIENCE_S) as connection:
            yield quick(connection)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def quick(connection: socket.socket) -> socket.socket:
    """The connection, which from now on sends every byte at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    # An asker killed before it connects must not leave the forked processes waiting for ever.
    listener.settimeout(_PATIENCE_S)
    return listener


def _accepted(listener: socket.socket) -> socket.socket:
    connection = quick(listener.accept()[0])
    connection.settimeout(None)
    return connection


def _served(work: Callable[[socket.socket], None], children: list[int]) -> tuple[str, int]:
    """Where a new process, one of ``children`` from now on, listens for the one connection that it works for."""
    with _listener() as listener:
        child = os.fork()
        if child:
            children.append(child)
            # Open in that process alone from here on, so that one that fails is seen to hang up.
            host, port = listener.getsockname()
            return str(host), int(port)
        try:
            work(listener)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


def _echo(listener: socket.socket) -> None:
    connection = _accepted(listener)
    while part := connection.recv(64):
        connection.sendall(part)


def _pass_on(listener: socket.socket, target: tuple[str, int]) -> None:
    be_prompt()
    near, far = _accepted(listener), quick(socket.create_connection(target))
    other = {near: far, far: near}
    while True:
        for ready in select.select((near, far), (), ())[0]:
            part = ready.recv(64)
            if not part:
                return
            other[ready].sendall(part)
