"""The processes with which `check_link_means` looks at a link: one reflects, one counts."""

from __future__ import annotations

import json
import random
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


def main(arguments: list[str]) -> None:
    """``reflect HOST`` or ``exchange ADDRESS BYTES CONNECTIONS``."""
    if arguments[0] == "reflect":
        _reflect(arguments[1])
    else:
        _exchange(arguments[1], int(arguments[2]), int(arguments[3]))
