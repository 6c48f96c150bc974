"""Who may ask a node for what. This file holds the seam and the guard that lets everybody in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol, final

__all__ = ["ANYBODY", "Guard", "Method", "OpenGuard", "Peer", "Principal"]

Method = Literal[
    "live",
    "ready",
    "server_metadata",
    "model_ready",
    "model_metadata",
    "statistics",
    "infer",
    "index",
    "load",
    "unload",
]
"""What can be asked of a node, whatever the protocol."""


@final
@dataclass(frozen=True)
class Peer:
    """Where a request came from, as its front saw it.

    Attributes:
        address: ``host:port``, or ``unix:`` for a socket of this machine.
        loopback: Whether it came from this machine.
        token: The bearer token it carried; None where it carried none.
        certificate_names: Names in the client's verified certificate; empty without one.
    """

    address: str
    loopback: bool
    token: str | None = None
    certificate_names: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Principal:
    """Who asks, as far as the guard could tell.

    Attributes:
        name: Name for logs and quotas.
    """

    name: str


class Guard(Protocol):
    """Asked once for every request, before anything of it is decoded; called from many threads."""

    def admit(self, peer: Peer, method: Method) -> Principal:
        """Who asks, if they may.

        Raises:
            RefusalError: UNAUTHENTICATED, FORBIDDEN or EXHAUSTED (too many requests).
        """
        ...


ANYBODY: Final = Principal("anybody")
"""Who asks a node that asks nobody who they are."""


@final
class OpenGuard:
    """Lets everybody do everything."""

    def admit(self, peer: Peer, method: Method) -> Principal:
        """See `Guard.admit`."""
        return ANYBODY
