"""Links by TCP proxies: every system with Python, for every user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import final

import msgspec

from tierwise.testbed._links import Availability, LinkMeans, Network, shapes
from tierwise.testbed._process import Spawner
from tierwise.testbed._proxy import ProxySpec
from tierwise.testbed._spaces import link_seed
from tierwise.topology import Topology

__all__ = ["ProxyMeans"]

_HOST = "127.0.0.1"


@final
class _Loopback(Network):
    """All tiers on this machine's own loopback address; one proxy process for each port reached over a link."""

    def __init__(self, topology: Topology, spawner: Spawner, stack: ExitStack) -> None:
        self._topology, self._spawner, self._stack = topology, spawner, stack
        self._addresses: dict[tuple[str, str, int], str] = {}

    @property
    def carries_packets(self) -> bool:
        return False

    def prefix(self, tier: str) -> list[str]:
        return []

    def listen_host(self, tier: str) -> str:
        return _HOST

    def address(self, lower: str, upper: str, port: int) -> str:
        key = (lower, upper, port)
        if key not in self._addresses:
            link = self._topology.links[self._topology.index(lower)]
            up, down = shapes(link)
            spec = ProxySpec(host=_HOST, target_host=_HOST, target_port=port, up=up, down=down, seed=link_seed(link))
            proxy = self._spawner.start_module(
                f"proxy-{lower}-{upper}", "tierwise.testbed._proxy", msgspec.json.encode(spec).decode()
            )
            self._stack.callback(self._spawner.stop, proxy)
            self._addresses[key] = f"{_HOST}:{int(proxy.line(20.0))}"
        return self._addresses[key]

    def outside(self, tier: str, address: str) -> str:
        return address


@final
class ProxyMeans(LinkMeans):
    """TCP streams whose bytes a process of ours holds back, one process a link."""

    @property
    def name(self) -> str:
        """See `LinkMeans.name`."""
        return "proxy"

    def availability(self) -> Availability:
        """See `LinkMeans.availability`."""
        return Availability(ok=True, reason="needs nothing but Python")

    def network(self, topology: Topology, spawner: Spawner) -> AbstractContextManager[Network]:
        """See `LinkMeans.network`."""

        @contextmanager
        def open_network() -> Iterator[Network]:
            with ExitStack() as stack:
                yield _Loopback(topology, spawner, stack)

        return open_network()
