"""The processes with which `check_link_means` looks at a link: one reflects, one counts, one stands between."""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import threading
import time

__all__ = ["main"]

_CHUNK_BYTES = 1 << 16


def _read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(_CHUNK_BYTES):
        parts.append(part)
    return b"".join(parts)


def _reflect(host: str) -> None:
    """Send back what comes, after the sender has said that there is no more."""

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.sendall(_read_all(connection))

    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def _exchange(address: str, size_bytes: int, connections: int) -> None:
    """Have ``size_bytes`` reflected over each of some connections at once; prints whether all came back, and when."""
    host, _, port = address.rpartition(":")
    intact = []

    def exchange(seed: int) -> None:
        blob = random.Random(seed).randbytes(size_bytes)
        try:
            with socket.create_connection((host, int(port)), timeout=30.0) as connection:
                connection.sendall(blob)
                connection.shutdown(socket.SHUT_WR)
                intact.append(_read_all(connection) == blob)
        except OSError as error:
            print(error, file=sys.stderr)

    threads = [threading.Thread(target=exchange, args=(seed,)) for seed in range(connections)]
    begin_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not intact:
        sys.exit("no connection")
    print(json.dumps([len(intact) == connections and all(intact), time.monotonic() - begin_s]), flush=True)


def _relay(host: str, port: int) -> None:
    """Pass on what comes, both ways, as it comes: what a process between two others costs without being a link."""
    other: dict[socket.socket, socket.socket] = {}
    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            for ready in select.select((listener, *other), (), ())[0]:
                if ready is listener:
                    pair = listener.accept()[0], socket.create_connection((host, port))
                    for connection in pair:
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    other |= {pair[0]: pair[1], pair[1]: pair[0]}
                elif ready not in other:
                    pass  # its other half was read to the end just now
                elif part := ready.recv(_CHUNK_BYTES):
                    other[ready].sendall(part)
                else:
                    for connection in (ready, other.pop(ready)):
                        other.pop(connection, None)
                        connection.close()


def main(arguments: list[str]) -> None:
    """``reflect HOST``, ``relay HOST PORT`` or ``exchange ADDRESS BYTES CONNECTIONS``."""
    if arguments[0] == "reflect":
        _reflect(arguments[1])
    elif arguments[0] == "relay":
        _relay(arguments[1], int(arguments[2]))
    else:
        _exchange(arguments[1], int(arguments[2]), int(arguments[3]))
