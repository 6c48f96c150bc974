"""What every means of emulating links must do, and the choice between them.

A third means is a subclass of `LinkMeans`; `tierwise.testing.check_link_means` says whether it is right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

from tierwise._config import Spec
from tierwise._errors import InputError, UnavailableError
from tierwise.testbed._lane import Shape
from tierwise.testbed._process import Spawner
from tierwise.topology import Link, Topology

__all__ = ["Availability", "LinkMeans", "Network", "choose_link_means", "shapes"]


class Availability(Spec, frozen=True, kw_only=True):
    """Whether this process can use something on this machine.

    Attributes:
        ok: It can.
        reason: Why not, or what was found.
        remedy: How to get it; empty when it is there.
    """

    ok: bool
    reason: str
    remedy: str = ""


class Network(ABC):
    """The tiers' machines as far as the network goes, and the shaped links between them."""

    @property
    @abstractmethod
    def carries_packets(self) -> bool:
        """Whether anything that speaks IP crosses the links (so loss and congestion are real), or only TCP streams."""

    @abstractmethod
    def prefix(self, tier: str) -> list[str]:
        """What to put before a command so that it runs on ``tier``; empty when any process does."""

    @abstractmethod
    def listen_host(self, tier: str) -> str:
        """The address a server on ``tier`` binds to be reached over the link from the tier below."""

    @abstractmethod
    def address(self, lower: str, upper: str, port: int) -> str:
        """``host:port`` at which a process on ``lower`` reaches ``port`` of ``upper`` over the shaped link.

        The server need not listen yet. Connections to the same port share the link's rate.
        """

    @abstractmethod
    def outside(self, tier: str, address: str) -> str:
        """``host:port`` at which a process on ``tier`` reaches ``address`` outside the emulation, unshaped."""


class LinkMeans(ABC):
    """A way to emulate links."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, as the user asks for it and as every result shows it."""

    @abstractmethod
    def availability(self) -> Availability:
        """Whether this process can use it here; asks by trying, and leaves nothing behind."""

    @abstractmethod
    def network(self, topology: Topology, spawner: Spawner) -> AbstractContextManager[Network]:
        """The emulated tiers of ``topology`` joined by links; all of it is gone when the context ends.

        Links to or from a tier with an ``address`` are real and not touched.

        Raises:
            UnavailableError: The machine refuses.
        """


def shapes(link: Link) -> tuple[Shape, Shape]:
    """The two directions (up, down) of a link; half of the round trip's delay is added each way."""
    up, down = (
        Shape(rate_bps=rate_bps, delay_s=link.rtt_s / 2, jitter_s=link.jitter_s, loss_frac=link.loss_frac)
        for rate_bps in (link.up_bps, link.down_bps)
    )
    return up, down


def choose_link_means(means: Sequence[LinkMeans], name: str | None) -> LinkMeans:
    """The means called ``name``, or the first of ``means`` that is available.

    Raises:
        InputError: No means is called so.
        UnavailableError: It is not available here; says why and how to get it.
    """
    if name is None:
        for one in means:
            if one.availability().ok:
                return one
        raise UnavailableError("one means of emulating links must be available", got="none of them")
    for one in means:
        if one.name == name:
            found = one.availability()
            if not found.ok:
                raise UnavailableError(
                    f"link means {name} must be available", got=found.reason, fix=found.remedy or None
                )
            return one
    known = ", ".join(one.name for one in means)
    raise InputError(f"the link means must be one of {known}", got=repr(name))
