"""Tiers in network namespaces: what the TUN relay and netem have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import final

import msgspec

from tierwise.testbed._links import Network
from tierwise.testbed._namespace import Namespace
from tierwise.testbed._process import Child, Spawner
from tierwise.testbed._proxy import ProxySpec
from tierwise.topology import Link, Topology

__all__ = ["ADDRESS_BITS", "Joint", "link_seed", "namespaced"]

ADDRESS_BITS = 30
# Joins the namespaces of the lower and the upper tier by a link; the two addresses are theirs on it. Returns the
# process that carries the link, where one does.
Joint = Callable[[Link, Namespace, Namespace, str, str], Child | None]


def link_seed(link: Link) -> int:
    """Seed of a link's jitter and loss: the same link behaves alike in every run."""
    # Imported here: relays and proxies, which start by the same package, do without NumPy.
    from tierwise._seeds import stream_seed

    return stream_seed(0, "link", link.lower, link.upper)


@final
class _Spaces(Network):
    """Each tier in a namespace of its own; link ``i`` is the network 10.77.i.0/30."""

    def __init__(self, topology: Topology, spaces: dict[str, Namespace], spawner: Spawner, stack: ExitStack) -> None:
        self._topology, self._spaces, self._spawner, self._stack = topology, spaces, spawner, stack
        self._gates: dict[tuple[str, str], str] = {}

    @property
    def carries_packets(self) -> bool:
        return True

    def prefix(self, tier: str) -> list[str]:
        return self._spaces[tier].prefix

    def listen_host(self, tier: str) -> str:
        index = self._topology.index(tier)
        below = self._topology.tiers[index - 1].name if index else None
        return _addresses(index - 1)[1] if below in self._spaces else "127.0.0.1"

    def address(self, lower: str, upper: str, port: int) -> str:
        return f"{_addresses(self._topology.index(lower))[1]}:{port}"

    def outside(self, tier: str, address: str) -> str:
        if (tier, address) not in self._gates:
            host, _, port = address.rpartition(":")
            spec = ProxySpec(
                host="127.0.0.1",
                target_host=host.strip("[]"),
                target_port=int(port),
                up=None,
                down=None,
                seed=0,
                netns=self._spaces[tier].path,
            )
            gate = self._spawner.start_module(
                f"gate-{tier}", "tierwise.testbed._proxy", msgspec.json.encode(spec).decode()
            )
            self._stack.callback(self._spawner.stop, gate)
            self._gates[tier, address] = f"127.0.0.1:{int(gate.line(20.0))}"
        return self._gates[tier, address]


def _addresses(index: int) -> tuple[str, str]:
    """Addresses of the lower and the upper end of link ``index``."""
    return f"10.77.{index}.1", f"10.77.{index}.2"


@contextmanager
def namespaced(topology: Topology, spawner: Spawner, join: Joint) -> Iterator[Network]:
    """A namespace for each emulated tier, and ``join`` called for each link between two of them."""
    with ExitStack() as stack:
        spaces = {}
        for tier in topology.tiers:
            if tier.address is None:
                spaces[tier.name] = stack.enter_context(Namespace())
                spaces[tier.name].run("ip", "link set lo up")
        for index, (lower, upper) in enumerate(itertools.pairwise(topology.tiers)):
            if lower.name in spaces and upper.name in spaces:
                carrier = join(topology.links[index], spaces[lower.name], spaces[upper.name], *_addresses(index))
                if carrier is not None:
                    stack.callback(spawner.stop, carrier)
        yield _Spaces(topology, spaces, spawner, stack)
