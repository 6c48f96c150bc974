"""A link for an ordinary user: a TCP proxy that holds bytes back as long as the link would take.

Started with a `ProxySpec` in JSON; prints the port it listens on. It shapes
the bytes of a stream, not packets: headers are charged as if it sent full segments, a lost segment is a stall of the
stream, and congestion control does not see any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import cast, final

import msgspec

from tierwise._config import Spec
from tierwise.testbed._lane import HEADER_BYTES, MTU_BYTES, QUEUE_PACKETS, SEGMENT_BYTES, Lane, Lateness, Shape
from tierwise.testbed._native import be_prompt, enter_network

__all__ = ["ProxySpec", "stall_s"]

# Reading from a sender stops while the wire has this much to do: the queue of a real link, without its losses.
_QUEUE_BYTES = QUEUE_PACKETS * MTU_BYTES
# Bytes are let out in pieces of this much time on the wire, at least one segment.
_PIECE_S = 500e-6
# Linux' smallest retransmission timeout: what the loss of a lone last segment costs.
_TIMEOUT_S = 0.2


class ProxySpec(Spec, frozen=True, kw_only=True):
    """The link to emulate.

    Attributes:
        host: Address to listen on; the port is the system's choice.
        target_host: Where connections are passed on to.
        target_port: Its port.
        up: From whoever connects to the target; None passes bytes on as they come.
        down: Back.
        seed: Of jitter and loss.
        netns: Path of the network namespace to listen in, when that is not the one to connect from.
    """

    host: str
    target_host: str
    target_port: int
    up: Shape | None
    down: Shape | None
    seed: int
    netns: str | None = None


def stall_s(
    draw: Callable[[], float], loss_frac: float, rtt_s: float, *, followed: int, last: bool, alone: bool
) -> float:
    """How long a stream stands still because segments that were sent may be lost, each with ``loss_frac``.

    Args:
        draw: Draws evenly from 0 to 1.
        loss_frac: Probability of a loss.
        rtt_s: Round trip of the link.
        followed: Segments with others behind them: sent again after one round trip (fast retransmission).
        last: Whether a segment with nothing behind it was sent too: sent again after two (a tail loss probe).
        alone: Whether that one was the only one under way: the smallest timeout passes besides.
    """
    if loss_frac == 0.0:
        return 0.0
    if last and draw() < loss_frac:
        return 2 * rtt_s + (_TIMEOUT_S if alone else 0.0)
    return rtt_s if followed and draw() < 1.0 - (1.0 - loss_frac) ** followed else 0.0


@final
class _Wire:
    """What all connections over one direction of the link share."""

    def __init__(self, shape: Shape, rtt_s: float, seed: int, lateness: Lateness) -> None:
        self.shape, self.rtt_s, self.lateness = shape, rtt_s, lateness
        # Loss is a stall of one stream here, never a hole in the lane.
        self.lane = Lane(msgspec.structs.replace(shape, loss_frac=0.0), seed=seed, queue_bytes=math.inf)
        self.full_s = _QUEUE_BYTES * 8 / shape.rate_bps
        self.draw = random.Random(seed).random
        self.piece_bytes = max(1, int(shape.rate_bps / 8 * _PIECE_S) // SEGMENT_BYTES) * SEGMENT_BYTES


@final
class _Way:
    """One direction of one connection: bytes in, the same bytes out later, then the end of the stream."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, wire: _Wire | None, opened_s: float, done: Callable[[], None]
    ) -> None:
        self._loop, self._wire, self._opened_s, self._done = loop, wire, opened_s, done
        self._held: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s, self._sleeps = 0.0, False
        self._last_s = 0.0
        self._blocked = False
        self._reading = True
        self.source: asyncio.Transport | None = None
        self.target: asyncio.Transport | None = None
        self.ended = False

    def push(self, data: bytes) -> None:
        """Take bytes from the sender."""
        if self._wire is None:
            self._hold(0.0, data)
            self._give()
            return
        wire = self._wire
        # Before the handshake's round trip is over, a real sender could not have sent this.
        now_s = max(self._loop.time() - wire.lateness.notice_s, self._opened_s)
        idle = wire.lane.backlog_s(now_s) == 0.0
        for start in range(0, len(data), wire.piece_bytes):
            piece = data[start : start + wire.piece_bytes]
            segments = math.ceil(len(piece) / SEGMENT_BYTES)
            out_s = wire.lane.enter(now_s, len(piece) + HEADER_BYTES * segments)
            last = start + wire.piece_bytes >= len(data)
            stall = stall_s(
                wire.draw,
                wire.shape.loss_frac,
                wire.rtt_s,
                followed=segments - last,
                last=last,
                alone=idle and len(data) <= SEGMENT_BYTES,
            )
            self._hold((out_s or now_s) + stall, piece)
        if wire.lane.backlog_s(now_s) > wire.full_s and self.source is not None:
            self._reading = False
            self.source.pause_reading()
        if self._timer is None:
            # At once what a link without delay does not hold: a turn of the loop takes as long as a machine's own link.
            self._give()

    def end(self) -> None:
        """The sender has no more."""
        delay_s = self._wire.shape.delay_s if self._wire else 0.0
        self._hold(self._loop.time() + delay_s, None)
        self._arm()

    def block(self, blocked: bool) -> None:
        """The receiver's buffer is full, or has room again."""
        self._blocked = blocked
        if not blocked:
            self._give()

    def drop(self) -> None:
        """Forget everything: the connection is gone."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _hold(self, out_s: float, piece: bytes | None) -> None:
        self._last_s = max(self._last_s, out_s)
        self._held.append((self._last_s, piece))

    def _arm(self) -> None:
        if self._held and self._timer is None and not self._blocked:
            self._due_s = self._held[0][0] - self._release_s()
            self._sleeps = self._due_s > self._loop.time()
            self._timer = self._loop.call_at(self._due_s, self._wake)

    def _release_s(self) -> float:
        return self._wire.lateness.release_s if self._wire else 0.0

    def _wake(self) -> None:
        now, due_s, slept = self._loop.time, self._due_s, self._sleeps
        woken_s = now()
        self._give()
        if self._wire and slept:
            self._wire.lateness.learn(woken_s - due_s, now() - due_s)

    def _give(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # What is due before the process would have it out another time is due now.
        now_s = self._loop.time() + self._release_s()
        while self._held and self._held[0][0] <= now_s and not self._blocked and self.target is not None:
            piece = self._held.popleft()[1]
            if piece is not None:
                self.target.write(piece)
                continue
            self.ended = True
            with contextlib.suppress(OSError):  # the receiver may be gone already
                self.target.write_eof()
            self._done()
        if not self._reading and self._wire and self._wire.lane.backlog_s(now_s) < self._wire.full_s / 2:
            self._reading = True
            if self.source is not None and not self.source.is_closing():
                self.source.resume_reading()
        self._arm()


@final
class _End(asyncio.Protocol):
    """One of the two sockets of a connection."""

    def __init__(self, out: _Way, back: _Way, opened: Callable[[], None] | None = None) -> None:
        self._out, self._back, self._opened = out, back, opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out.source = self._back.target = cast("asyncio.Transport", transport)
        if self._opened is not None:
            self._out.source.pause_reading()
            self._opened()

    def data_received(self, data: bytes) -> None:
        self._out.push(data)

    def eof_received(self) -> bool:
        self._out.end()
        return True  # the other direction may still have something to say

    def pause_writing(self) -> None:
        self._back.block(True)

    def resume_writing(self) -> None:
        self._back.block(False)

    def connection_lost(self, exc: Exception | None) -> None:
        # An orderly end has closed both sides already; anything else is a break, and breaks both.
        self._back.drop()
        if self._out.target is not None and not self._out.target.is_closing():
            self._out.target.abort()


@final
class _Proxy:
    """Accepts connections and joins each to one of its own to the target."""

    def __init__(self, loop: asyncio.AbstractEventLoop, spec: ProxySpec) -> None:
        self._loop, self._spec = loop, spec
        lateness = Lateness()
        self._rtt_s = sum(shape.delay_s for shape in (spec.up, spec.down) if shape is not None)
        self._up = None if spec.up is None else _Wire(spec.up, self._rtt_s, spec.seed, lateness)
        self._down = None if spec.down is None else _Wire(spec.down, self._rtt_s, spec.seed + 1, lateness)
        self._joining: set[asyncio.Task[None]] = set()

    def accept(self) -> _End:
        """The protocol of a new connection."""
        opened_s = self._loop.time() + self._rtt_s
        ways: list[_Way] = []

        def end() -> None:
            if all(way.ended for way in ways):
                for way in ways:
                    if way.target is not None:
                        way.target.close()

        ahead, back = _Way(self._loop, self._up, opened_s, end), _Way(self._loop, self._down, opened_s, end)
        ways += [ahead, back]

        def start() -> None:
            task = self._loop.create_task(self._join(ahead, back))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

        return _End(ahead, back, start)

    async def _join(self, ahead: _Way, back: _Way) -> None:
        spec = self._spec
        try:
            await self._loop.create_connection(lambda: _End(back, ahead), spec.target_host, spec.target_port)
        except OSError:
            if ahead.source is not None:
                ahead.source.abort()
            return
        if ahead.source is not None and not ahead.source.is_closing():
            ahead.source.resume_reading()


async def _serve(spec: ProxySpec, listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(
        _Proxy(asyncio.get_running_loop(), spec).accept, sock=listener
    )
    print(listener.getsockname()[1], flush=True)
    await server.serve_forever()


def _listen(spec: ProxySpec) -> socket.socket:
    """The listening socket, made where the lower tier is; this process itself stays where the target is."""
    here = "/proc/self/ns/net"
    with contextlib.ExitStack() as back:
        if spec.netns is not None:
            # Opened before leaving: the path means another namespace afterwards.
            home = os.open(here, os.O_RDONLY)
            back.callback(os.close, home)
            back.callback(enter_network, f"/proc/self/fd/{home}")
            enter_network(spec.netns)
        return socket.create_server((spec.host, 0))


def main(arguments: list[str]) -> None:
    """Proxy until killed."""
    spec = msgspec.json.decode(arguments[0], type=ProxySpec)
    listener = _listen(spec)
    be_prompt()
    # Only select() waits to the microsecond; epoll, asyncio's default, rounds up to a whole millisecond.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with contextlib.closing(loop):
        loop.run_until_complete(_serve(spec, listener))
