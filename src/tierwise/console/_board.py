"""The picture of now, kept up to date by looking at the nodes, and handed to whoever waits for the next one."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, TypeVar, final

import msgspec

from tierwise._clock import SystemClock
from tierwise.console._chains import Seen
from tierwise.console._client_watch import ClientGlance, ClientWatch
from tierwise.console._node_watch import Glance, NodeWatch
from tierwise.console._picture import Picture, draw
from tierwise.console._spec import ConsoleSpec

__all__ = ["Board"]

T = TypeVar("T")

_HISTORY: Final = 120
# How often a reader that waits looks whether the console is to end.
_PATIENCE_S: Final = 0.25


@final
class Board:
    """The picture of now; belongs to one event loop.

    Args:
        spec: What is watched.
    """

    def __init__(self, spec: ConsoleSpec) -> None:
        self._spec, self._clock = spec, SystemClock()
        self._watches = [NodeWatch(node, spec.window_s, self._clock) for node in spec.nodes]
        self._clients = [ClientWatch(address, spec.window_s, self._clock) for address in spec.clients]
        # A look at a node that hangs takes seconds; it must not keep the others waiting.
        self._threads = ThreadPoolExecutor(len(self._watches) + len(self._clients), thread_name_prefix="look")
        self._glances: dict[int, Glance] = {}
        self._client_glances: dict[int, ClientGlance] = {}
        self._history: dict[str, tuple[deque[float | None], deque[float | None]]] = {}
        self._changed = asyncio.Condition()
        self._number = 0
        self.picture: bytes = b""

    async def run(self) -> None:
        """Look at everything, again and again, until cancelled."""
        looks = [
            *(self._keep(watch.look, self._glances, i) for i, watch in enumerate(self._watches)),
            *(self._keep(watch.look, self._client_glances, i) for i, watch in enumerate(self._clients)),
        ]
        tasks = [asyncio.create_task(look) for look in (*looks, self._draw())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for watch in self._watches:
                watch.close()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def pictures(self, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The picture of now and each one after it, as JSON, until ``ended``; what a slow reader misses is left out."""
        seen = 0
        while not ended():
            if self._number == seen:
                async with self._changed:
                    try:
                        await asyncio.wait_for(self._changed.wait(), _PATIENCE_S)
                    except TimeoutError:
                        continue
            seen = self._number
            yield self.picture

    async def _keep(self, look: Callable[[], T], into: dict[int, T], i: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            into[i] = await loop.run_in_executor(self._threads, look)
            await asyncio.sleep(max(0.05, self._spec.every_s - (loop.time() - started_s)))

    async def _draw(self) -> None:
        while True:
            if len(self._glances) == len(self._watches):  # each was looked at once
                picture = self._remembering(self._drawn())
                self.picture = msgspec.json.encode(picture)
                self._number += 1
                async with self._changed:
                    self._changed.notify_all()
                await asyncio.sleep(self._spec.every_s)
            else:
                await asyncio.sleep(0.05)

    def _drawn(self) -> Picture:
        seen = [
            Seen(node.address, node.tier or self._glances[i].tier or node.address, self._glances[i])
            for i, node in enumerate(self._spec.nodes)
        ]
        title = self._spec.name or (f"{len(seen)} nodes" if len(seen) > 1 else "1 node")
        return draw(
            seen,
            self._spec.links,
            [self._client_glances[i] for i in sorted(self._client_glances)],
            name=title,
            now_s=self._clock.now_ns() / 1e9,
            time_s=time.time(),
            every_s=self._spec.every_s,
            window_s=self._spec.window_s,
        )

    def _remembering(self, picture: Picture) -> Picture:
        """The picture with what its chains' figures were before; chains that are gone are forgotten."""
        kept = {}
        for chain in picture.chains:
            made = functools.partial(deque[float | None], maxlen=_HISTORY)
            p50, p95 = self._history.get(chain.key) or (made(), made())
            p50.append(chain.p50_s)
            p95.append(chain.p95_s)
            kept[chain.key] = (p50, p95)
        self._history = kept
        return replace(picture, history={key: (list(p50), list(p95)) for key, (p50, p95) in kept.items()})
