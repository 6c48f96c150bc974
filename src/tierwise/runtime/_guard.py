"""Who asks a node for what, in no protocol's words, and what decides whether they may."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, final

__all__ = ["ANYBODY", "Guard", "Method", "Peer", "Principal"]

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
    "train",
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
        web: Whether a page in a browser asks: it comes from whoever made the page, wherever the browser runs.
    """

    address: str
    loopback: bool
    token: str | None = None
    certificate_names: tuple[str, ...] = ()
    web: bool = False


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

    def held(self, principal: Principal) -> AbstractContextManager[None]:
        """A request of ``principal`` is under way while the block runs.

        Raises:
            RefusalError: EXHAUSTED (too many are).
        """
        ...


ANYBODY: Final = Principal("anybody")
"""Who asks where nobody was asked who they are."""
