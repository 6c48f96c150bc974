"""Looks after paths that no request takes: tries those that failed, refreshes what is known, probes idle links."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import final

import numpy as np

from tierwise._clock import Clock
from tierwise._errors import RemoteError, TierwiseError
from tierwise.runtime._forecast import ON_LINK
from tierwise.runtime._hop import count_hop
from tierwise.runtime._link_state import LinkState
from tierwise.runtime._paths import Paths
from tierwise.runtime._pipeline import CLIENT, Items
from tierwise.runtime._probe import PROBE
from tierwise.runtime._route import Attempt, Route
from tierwise.runtime._visit import Timeline
from tierwise.wire import InferenceClient, infer_request

__all__ = ["Scout"]

_TICK_S = 0.05
# A probe may take this share of a link's time: on a slow one the usual size would leave no room for requests.
_PROBE_FRAC = 0.1
_LEAST_PROBE_BYTES = 1024


@final
class Scout:
    """A thread of an adaptive pipeline that learns about paths at nobody's cost.

    Args:
        spec: How often.
        routes: The paths.
        links: Their links by name.
        lock: Guards the links' state.
        clock: The host's clock.
        latest: The latest request; None before the first.
        limit_s: How long a path may take.
    """

    def __init__(
        self,
        spec: Paths,
        routes: Sequence[Route],
        links: Mapping[str, LinkState],
        lock: threading.Lock,
        clock: Clock,
        latest: Callable[[], Items | None],
        limit_s: Callable[[Route], float],
    ) -> None:
        self._spec, self._routes, self._links, self._lock, self._clock = spec, routes, links, lock, clock
        self._latest, self._limit_s = latest, limit_s
        self._probes = _probes(spec)
        self._busy: set[str] = set()
        self._due_ns = dict.fromkeys(self._probes, 0)
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(len(routes) + len(self._probes), thread_name_prefix="tierwise-scout")
        self._thread = threading.Thread(target=self._run, name="tierwise-scout", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for what is under way."""
        self._stopped.set()
        self._thread.join()
        for client in self._probes.values():
            client.close()
        self._pool.shutdown()

    def _run(self) -> None:
        # At the end of the interpreter the pool closes before this thread does.
        with contextlib.suppress(RuntimeError):
            self._watch()

    def _watch(self) -> None:
        while not self._stopped.wait(_TICK_S):
            items = self._latest()
            for route in self._routes:
                attempt = None
                if items is not None and not self._awaits_probe(route):
                    attempt = route.begin_trial(self._spec.refresh_s, self._limit_s(route))
                if attempt is not None and items is not None:
                    self._pool.submit(self._try, route, items, attempt)
            if self._spec.probe_s > 0:
                for name in self._probes:
                    self._probe_if_due(name)

    def _awaits_probe(self, route: Route) -> bool:
        """Whether a small probe shall tell first what a copy of a request would meet on the link."""
        name = route.spec.link
        if name is None or name not in self._busy or route.facts().breaker != "closed":
            return False
        with self._lock:
            return self._links[name].facts.rtt_s is None

    def _try(self, route: Route, items: Items, attempt: Attempt) -> None:
        """Repeat a request along a path; the answer is thrown away."""
        try:
            route.ask(items, attempt, max(self._limit_s(route), 0.01))
        except TierwiseError:
            return  # the route has taken note

    def _probe_if_due(self, name: str) -> None:
        now_ns = self._clock.now_ns()
        wait_ns = round(1e9 * self._spec.probe_s)
        if name in self._busy or now_ns < self._due_ns[name]:
            return
        if all(route.facts().breaker != "closed" for route in self._routes if route.spec.link == name):
            return  # it is down; trials find out when it is back
        with self._lock:
            idle = now_ns - self._links[name].rated_ns >= wait_ns
        self._busy.add(name)
        self._due_ns[name] = now_ns + wait_ns
        most_bytes = self._spec.probe_bytes
        self._pool.submit(self._probe, name, (0, _LEAST_PROBE_BYTES, most_bytes) if idle else (0,))

    def _probe(self, name: str, sizes: tuple[int, ...]) -> None:
        """Messages of some sizes there, nothing back. The small one also keeps the round trip of a busy link known."""
        began_ns, sent_bytes = self._clock.now_ns(), 0
        try:
            for most_bytes in sizes:
                size = min(most_bytes, self._bearable_bytes(name))
                blob = np.zeros(size, dtype=np.uint8)
                # Nobody waits for it, and that the link is slow is told by an answer only.
                patience_s = max(self._spec.deadline_s, self._spec.probe_s)
                exchange = self._probes[name].exchange(infer_request(PROBE, {"blob": blob}), patience_s)
                timeline = Timeline()
                count_hop(exchange, CLIENT, name, timeline)
                link_ns = sum(ns for tier, stage, ns in timeline.entries() if stage in ON_LINK)
                sent_bytes += exchange.sent_bytes
                with self._lock:
                    self._links[name].observe(
                        exchange.sent_bytes, exchange.received_bytes, link_ns / 1e9, self._clock.now_ns()
                    )
        except RemoteError:
            return  # a link that is down is found out by requests and trials, which know what they need
        finally:
            # On a very slow link even the least of them take more than their share; the next one comes later then.
            with self._lock:
                up_bps = self._links[name].facts.up_bps
            if up_bps is not None:
                self._due_ns[name] = max(self._due_ns[name], began_ns + round(8e9 * sent_bytes / up_bps / _PROBE_FRAC))
            self._busy.discard(name)

    def _bearable_bytes(self, name: str) -> int:
        """What a probe may send over the link."""
        with self._lock:
            up_bps = self._links[name].facts.up_bps
        if up_bps is None:
            return self._spec.probe_bytes
        return max(_LEAST_PROBE_BYTES, round(_PROBE_FRAC * self._spec.probe_s * up_bps / 8))


def _probes(spec: Paths) -> dict[str, InferenceClient]:
    """A client for each link that can be probed."""
    addresses: dict[str, str] = {}
    for path in spec.paths:
        if path.link is not None and path.probe_address is not None:
            addresses.setdefault(path.link, path.probe_address)
    return {
        name: InferenceClient(address, credentials=spec.credentials_for(address)) for name, address in addresses.items()
    }
