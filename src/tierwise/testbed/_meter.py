"""What a link really does: goodput both ways, round-trip time, and loss where packets can be lost.

Started as ``serve HOST`` at the upper end (prints the port) and as ``measure ADDRESS PLAN`` at the lower end (prints
`LinkFigures` in JSON). All rates are those of IP packets: goodput
is multiplied by what full TCP segments carry besides payload.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import statistics
import threading
import time
from typing import final

import msgspec

from tierwise._config import Spec
from tierwise.testbed._lane import MTU_BYTES, SEGMENT_BYTES
from tierwise.testbed._passing import passed_on, quick

__all__ = ["PING_BYTES", "LinkFigures", "MeterPlan"]

# A one-byte TCP segment as an IP packet.
PING_BYTES = 53
_CHUNK_BYTES = 1 << 18
_DATAGRAM_BYTES = MTU_BYTES - 28
# Datagrams are sent this much faster than the link, so that it is always busy, and never more than its queue takes.
_OVERLOAD = 1.15
_EXCESS_BITS = 8e6
# The first part of a transfer is not counted: TCP has not filled the link yet.
_COUNTED_FROM = 0.6
_DEAF_S = 3.0
# Enough for a link of several Gbit/s; more only takes memory and time.
_MOST_BYTES = 200_000_000

Curve = list[tuple[float, int]]


class MeterPlan(Spec, frozen=True, kw_only=True):
    """What to expect of the link, from which the size of the measurement follows.

    Attributes:
        up_bps: Rate to the server.
        down_bps: Rate back.
        rtt_s: Round-trip time.
        loss_frac: Share of packets that get lost; above 0, rates and loss are measured by datagrams, since TCP would
            say more about its congestion control than about the link.
    """

    up_bps: float
    down_bps: float
    rtt_s: float
    loss_frac: float = 0.0


class LinkFigures(Spec, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        up_bps: Rate to the server, of IP packets.
        down_bps: Rate back.
        rtt_s: Median round trip of one byte over TCP.
        rtt_low_s: Tenth percentile of it.
        passed_on_s: Median round trip of one byte in between, over no link but through a process that passes it on:
            what this machine takes to wake as many processes as carry a link by relay or proxy.
        loss_frac: Share of datagrams lost, both directions together; None where no datagrams were sent.
    """

    up_bps: float
    down_bps: float
    rtt_s: float
    rtt_low_s: float
    passed_on_s: float = 0.0
    loss_frac: float | None = None


def _rate_bps(curve: Curve, payload_bytes: int) -> float:
    """Rate of IP packets in the counted part of a curve of (instant, bytes so far); 0 where nothing came."""
    if not curve:
        return 0.0
    begin_s, begin_bytes = next(point for point in curve if point[1] >= _COUNTED_FROM * curve[-1][1])
    if curve[-1][0] <= begin_s:
        # Everything came at once; count from the very first byte.
        begin_s, begin_bytes = curve[0]
    return (curve[-1][1] - begin_bytes) * 8 * MTU_BYTES / payload_bytes / max(curve[-1][0] - begin_s, 1e-9)


def _receive(connection: socket.socket, size_bytes: int, longest_s: float) -> Curve:
    """Read ``size_bytes``, but no longer than that; every read is a point."""
    curve: Curve = []
    total, buffer = 0, bytearray(_CHUNK_BYTES)
    until_s = time.monotonic() + longest_s
    connection.settimeout(longest_s)
    while total < size_bytes and time.monotonic() < until_s:
        try:
            got = connection.recv_into(buffer)
        except TimeoutError:
            break
        if not got:
            break
        total += got
        curve.append((time.monotonic(), total))
    return curve


def _send(connection: socket.socket, size_bytes: int) -> None:
    chunk = bytes(_CHUNK_BYTES)
    with contextlib.suppress(OSError):  # a receiver that has seen enough hangs up
        for start in range(0, size_bytes, _CHUNK_BYTES):
            connection.sendall(chunk[: size_bytes - start])


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(_CHUNK_BYTES)
        if not part:
            raise ConnectionError("the other end of the measurement hung up")
        line += part
    return line


def _blast(out: socket.socket, target: tuple[str, int], rate_bps: float, count: int) -> None:
    """Send ``count`` datagrams evenly at ``rate_bps``."""
    step_s = MTU_BYTES * 8 / rate_bps
    begin_s = time.monotonic()
    for index in range(count):
        early_s = begin_s + index * step_s - time.monotonic()
        if early_s > 0.0005:
            time.sleep(early_s)
        out.sendto(bytes(_DATAGRAM_BYTES), target)


def _collect(source: socket.socket, count: int, quiet_s: float) -> Curve:
    """Receive up to ``count`` datagrams until none has come for ``quiet_s``; the first may take longer."""
    curve: Curve = []
    total = 0
    source.settimeout(_DEAF_S)
    while total < count * _DATAGRAM_BYTES:
        try:
            got = len(source.recv(MTU_BYTES))
        except TimeoutError:
            break
        if got < _DATAGRAM_BYTES:
            continue
        total += got
        curve.append((time.monotonic(), total))
        source.settimeout(quiet_s)
    return curve


def _datagrams() -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    return udp


@final
class _Server:
    """The upper end: one request a connection, told by a JSON line."""

    def __init__(self, host: str) -> None:
        self._listener = socket.create_server((host, 0))
        self._udp = _datagrams()
        self._udp.bind((host, self.port))

    @property
    def port(self) -> int:
        """Port of both TCP and UDP."""
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Serve until killed."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            quick(connection)
            line = b""
            while not line.endswith(b"\n"):
                byte = connection.recv(1)
                if not byte:
                    return
                line += byte
            what, size, rate_bps, quiet_s = msgspec.json.decode(line, type=tuple[str, int, float, float])
            if what == "echo":
                while byte := connection.recv(1):
                    connection.sendall(byte)
            elif what == "sink":
                connection.sendall(msgspec.json.encode(_receive(connection, size, quiet_s)) + b"\n")
                _receive(connection, size, _DEAF_S)  # what is still under way, until the sender hangs up
            elif what == "source":
                _send(connection, size)
            elif what == "count":
                connection.sendall(msgspec.json.encode(_collect(self._udp, size, quiet_s)) + b"\n")
            elif what == "blast":
                # The asker's datagram says where to; it may be lost, so it comes several times.
                self._udp.settimeout(_DEAF_S)
                _, asker = self._udp.recvfrom(MTU_BYTES)
                _blast(self._udp, asker, rate_bps, size)


@final
class _Client:
    """The lower end."""

    def __init__(self, address: str, plan: MeterPlan) -> None:
        host, _, port = address.rpartition(":")
        self._target, self._plan = (host, int(port)), plan

    def measure(self) -> LinkFigures:
        """All figures, one after the other."""
        plan = self._plan
        times_s, passed_on_s = self._ping()
        loss_frac = None
        if not plan.loss_frac:
            up_bps, down_bps = self._upload(), self._download()
        else:
            ways = [self._datagrams_up(), self._datagrams_down()]
            sent = sum(count for _, count in ways)
            arrived = [curve[-1][1] // _DATAGRAM_BYTES if curve else 0 for curve, _ in ways]
            up_bps, down_bps = (_rate_bps(curve, _DATAGRAM_BYTES) for curve, _ in ways)
            loss_frac = 1.0 - sum(arrived) / sent
        return LinkFigures(
            up_bps=up_bps,
            down_bps=down_bps,
            rtt_s=statistics.median(times_s),
            rtt_low_s=sorted(times_s)[len(times_s) // 10],
            passed_on_s=statistics.median(passed_on_s),
            loss_frac=loss_frac,
        )

    def _ask(self, what: str, size: int = 0, rate_bps: float = 1.0, quiet_s: float = 1.0) -> socket.socket:
        connection = quick(socket.create_connection(self._target, timeout=30.0))
        connection.sendall(msgspec.json.encode((what, size, rate_bps, quiet_s)) + b"\n")
        return connection

    def _ping(self) -> tuple[list[float], list[float]]:
        """Round trips over the link, and in turn with them over none."""
        repeats = max(15, min(60, int(0.5 / (self._plan.rtt_s + 0.004))))
        linked_s: list[float] = []
        unlinked_s: list[float] = []
        with passed_on() as unlinked, self._ask("echo") as linked:
            for _ in range(repeats + 3):
                for connection, times_s in ((linked, linked_s), (unlinked, unlinked_s)):
                    begin_s = time.perf_counter()
                    connection.sendall(b".")
                    connection.recv(1)
                    times_s.append(time.perf_counter() - begin_s)
                    # Uneven pauses, so that nothing periodic on the machine is always met at the same phase.
                    time.sleep(random.uniform(0.001, 0.004))
        return linked_s[3:], unlinked_s[3:]

    def _bytes(self, rate_bps: float) -> tuple[int, float]:
        """As much as fills the link for long enough to leave slow start; and when to give up on a slower one."""
        seconds = min(2.0, (0.6 if rate_bps > 5e6 else 1.0) + 25 * self._plan.rtt_s)
        size = min(_MOST_BYTES, max(20 * SEGMENT_BYTES, int(rate_bps / 8 * seconds)))
        return size, 2 * seconds + 1.0

    def _upload(self) -> float:
        size, longest_s = self._bytes(self._plan.up_bps)
        with self._ask("sink", size, quiet_s=longest_s) as connection:
            # Beside the reading, since the sink may have seen enough before all is sent.
            threading.Thread(target=_send, args=(connection, size), daemon=True).start()
            return _rate_bps(msgspec.json.decode(_read_line(connection), type=Curve), SEGMENT_BYTES)

    def _download(self) -> float:
        size, longest_s = self._bytes(self._plan.down_bps)
        with self._ask("source", size) as connection:
            return _rate_bps(_receive(connection, size, longest_s), SEGMENT_BYTES)

    def _count(self, rate_bps: float) -> int:
        """Datagrams to send: what is left of them keeps the link busy without filling its queue."""
        seconds = min(1.5, _EXCESS_BITS / ((_OVERLOAD - 1) * rate_bps))
        return max(40, int(self._pace_bps(rate_bps) * seconds / 8 / MTU_BYTES))

    def _pace_bps(self, rate_bps: float) -> float:
        """Rate to send at: lost datagrams take no time on the wire."""
        return _OVERLOAD * rate_bps / (1.0 - self._plan.loss_frac)

    def _datagrams_up(self) -> tuple[Curve, int]:
        rate_bps = self._plan.up_bps
        count = self._count(rate_bps)
        quiet_s = 0.3 + 2 * self._plan.rtt_s + 50 * MTU_BYTES * 8 / rate_bps
        with self._ask("count", count, quiet_s=quiet_s) as connection, _datagrams() as udp:
            time.sleep(self._plan.rtt_s + 0.1)  # until the server listens
            _blast(udp, self._target, self._pace_bps(rate_bps), count)
            return msgspec.json.decode(_read_line(connection), type=Curve), count

    def _datagrams_down(self) -> tuple[Curve, int]:
        rate_bps = self._plan.down_bps
        count = self._count(rate_bps)
        quiet_s = 0.3 + 2 * self._plan.rtt_s + 50 * MTU_BYTES * 8 / rate_bps
        with self._ask("blast", count, self._pace_bps(rate_bps)), _datagrams() as udp:
            time.sleep(self._plan.rtt_s + 0.1)
            for _ in range(5):
                udp.sendto(b"here", self._target)
            return _collect(udp, count, quiet_s), count


def main(arguments: list[str]) -> None:
    """Serve until killed, or measure once."""
    # Whoever started us may not care how its own processes end, which is inherited.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if arguments[0] == "serve":
        server = _Server(arguments[1])
        print(server.port, flush=True)
        server.run()
    plan = msgspec.json.decode(arguments[2], type=MeterPlan)
    print(msgspec.json.encode(_Client(arguments[1], plan).measure()).decode(), flush=True)
