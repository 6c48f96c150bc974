"""A link between two network namespaces: one TUN device in each, and this process carrying packets between them.

Started with a `RelaySpec` in JSON; prints ``ready`` when both devices exist.
A process of its own, so that a link never waits for the interpreter lock of a node or of the study.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import time
from collections import deque
from typing import final

import msgspec

from tierwise._config import Spec
from tierwise.testbed._lane import Lane, Lateness, Shape
from tierwise.testbed._native import be_prompt, enter_network

__all__ = ["LOWER_DEVICE", "UPPER_DEVICE", "RelaySpec"]

LOWER_DEVICE = "tw-up"
UPPER_DEVICE = "tw-down"
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
# Packets taken from one device before the other one is looked at.
_BATCH = 32
# While packets stream, they are let out together up to this much late; a lone packet is let out on time.
_COALESCE_S = 200e-6


class RelaySpec(Spec, frozen=True, kw_only=True):
    """The link to carry.

    Attributes:
        lower_netns: Path of the lower tier's network namespace.
        upper_netns: Path of the upper tier's.
        up: From lower to upper.
        down: From upper to lower.
        seed: Of jitter and loss.
    """

    lower_netns: str
    upper_netns: str
    up: Shape
    down: Shape
    seed: int


@final
class _Way:
    """One direction: reads packets of one device, holds them, writes them to the other."""

    __slots__ = ("_held", "_lane", "_lateness", "_source", "_target", "due_s")

    def __init__(self, source: int, target: int, lane: Lane, lateness: Lateness) -> None:
        self._source, self._target, self._lane, self._lateness = source, target, lane, lateness
        self._held: deque[tuple[float, bytes]] = deque()
        self.due_s = float("inf")

    def take(self) -> None:
        """Read what waits, up to a batch."""
        now = time.monotonic
        late_s = self._lateness.notice_s
        for _ in range(_BATCH):
            try:
                packet = os.read(self._source, 65536)
            except BlockingIOError:
                break
            out_s = self._lane.enter(now() - late_s, len(packet))
            if out_s is not None:
                self._held.append((out_s, packet))
        if self._held:
            self.due_s = self._held[0][0]

    def give(self, now_s: float) -> None:
        """Write what is due by ``now_s``."""
        held = self._held
        while held and held[0][0] <= now_s:
            # A device that is being taken down refuses packets; they are lost as on a real wire.
            with contextlib.suppress(OSError):
                os.write(self._target, held.popleft()[1])
        if len(held) > 1:
            self.due_s = max(held[0][0], now_s + _COALESCE_S)
        else:
            self.due_s = held[0][0] if held else float("inf")


def _open_device(netns: str, name: str) -> int:
    enter_network(netns)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    return device


def _carry(up: _Way, down: _Way, lower: int, upper: int, lateness: Lateness) -> None:
    ways = {lower: up, upper: down}
    due_s, woken_s = float("inf"), None
    while True:
        # What is due before the process would have it out another time is due now.
        now_s = time.monotonic() + lateness.release_s
        up.give(now_s)
        down.give(now_s)
        if woken_s is not None:
            lateness.learn(woken_s - due_s, time.monotonic() - due_s)
        due_s = min(up.due_s, down.due_s) - lateness.release_s
        wait_s = None if due_s == float("inf") else max(0.0, due_s - time.monotonic())
        ready = select.select((lower, upper), (), (), wait_s)[0]
        for device in ready:
            ways[device].take()
        woken_s = time.monotonic() if wait_s and not ready else None


def main(arguments: list[str]) -> None:
    """Carry the link until killed."""
    spec = msgspec.json.decode(arguments[0], type=RelaySpec)
    lower = _open_device(spec.lower_netns, LOWER_DEVICE)
    upper = _open_device(spec.upper_netns, UPPER_DEVICE)
    be_prompt()
    lateness = Lateness()
    up = _Way(lower, upper, Lane(spec.up, seed=spec.seed), lateness)
    down = _Way(upper, lower, Lane(spec.down, seed=spec.seed + 1), lateness)
    print("ready", flush=True)
    _carry(up, down, lower, upper, lateness)
