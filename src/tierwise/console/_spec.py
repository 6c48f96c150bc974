"""What a console watches and where it shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import msgspec

from tierwise._config import Spec, convert
from tierwise._errors import InputError
from tierwise.topology import Link, Topology

__all__ = ["ConsoleSpec", "Watched"]


class Watched(Spec, frozen=True, kw_only=True):
    """A node to watch.

    Attributes:
        address: ``host:port`` or ``unix:/path``.
        tier: The name a topology gives it; None: what the node calls itself.
    """

    address: Annotated[str, msgspec.Meta(min_length=1)]
    tier: str | None = None


class ConsoleSpec(Spec, frozen=True, kw_only=True):
    """A console.

    Attributes:
        nodes: From the device upward; links are drawn between neighbours.
        links: What a topology says of them.
        name: Title of the page; None: how many nodes there are.
        clients: Addresses ``http://HOST:PORT/metrics`` of applications that show which path answers took.
        listen: ``host:port`` of the page; port 0: the system picks one. Whoever reaches it can read all of it.
        hosts: Names (beside ``localhost`` and IP addresses) that a browser may know the page by.
        every_s: Seconds between two looks at a node.
        window_s: Seconds that rates and quantiles are taken over.
    """

    nodes: Annotated[tuple[Watched, ...], msgspec.Meta(min_length=1, max_length=64)]
    links: tuple[Link, ...] = ()
    name: str | None = None
    clients: tuple[Annotated[str, msgspec.Meta(pattern=r"^https?://")], ...] = ()
    listen: str = "127.0.0.1:8080"
    hosts: tuple[str, ...] = ()
    every_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 1.0
    window_s: Annotated[float, msgspec.Meta(ge=1, le=600)] = 10.0

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        addresses = [node.address for node in self.nodes]
        if len(set(addresses)) != len(addresses):
            raise ValueError(f"every node must be named once, but got {addresses}")
        if not self.listen.rpartition(":")[0] or not self.listen.rpartition(":")[2].isdigit():
            raise ValueError(f"listen must be HOST:PORT, but got {self.listen!r}")

    @classmethod
    def of_topology(
        cls, topology: Topology, *, listen: str, clients: Sequence[str], hosts: Sequence[str], every_s: float
    ) -> Self:
        """A console of the tiers that have an address.

        Raises:
            InputError: No tier has one.
            SpecError: A value is out of bounds.
        """
        nodes = [{"address": tier.address, "tier": tier.name} for tier in topology.tiers if tier.address]
        if not nodes:
            raise InputError(
                "at least one tier must have the address of its node",
                where=f"topology {topology.name}",
                fix='Add address = "HOST:PORT" to its tiers, or name the nodes with --node',
            )
        asked = {
            "nodes": nodes,
            "links": msgspec.to_builtins(topology.links),
            "name": topology.name,
            "clients": list(clients),
            "listen": listen,
            "hosts": list(hosts),
            "every_s": every_s,
        }
        return convert(asked, cls, where=f"a console of topology {topology.name}")
