"""The nouns of a topology: tiers, links, and the order between them."""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec

from tierwise._config import Spec

__all__ = ["Link", "PowerModel", "Scaling", "Tier", "Topology"]

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class PowerModel(Spec, frozen=True, kw_only=True):
    """What a tier draws when no meter is there; every figure made from it is marked *modelled*.

    Attributes:
        idle_w: Watts while waiting.
        active_w: Watts while all CPUs of the tier compute.
        radio_j_per_byte: Joules per byte sent or received over the tier's upward link.
        source: Where the figures come from.
    """

    idle_w: NotNegative
    active_w: NotNegative
    radio_j_per_byte: NotNegative = 0.0
    source: str


class Tier(Spec, frozen=True, kw_only=True):
    """One kind of machine.

    Attributes:
        name: Lower-case name, used in placements (``mobile``).
        cpus: CPUs the tier has; a fraction is a share of one core.
        memory_bytes: Memory limit of the tier's node process.
        power: Power model, where the user has one.
        address: ``host:port`` of a node that already runs; such a tier is used as it is, never emulated.
    """

    name: Name
    cpus: Positive
    memory_bytes: Annotated[int, msgspec.Meta(gt=0)]
    power: PowerModel | None = None
    address: str | None = None


class Link(Spec, frozen=True, kw_only=True):
    """The link from one tier up to the next.

    Attributes:
        lower: Name of the tier nearer to the device.
        upper: Name of the tier farther from it.
        up_bps: Rate from lower to upper, bits per second on the wire (IP packets).
        down_bps: Rate from upper to lower.
        rtt_s: Round-trip time of a small packet on the idle link.
        jitter_s: Standard deviation of the one-way delay; packets are not reordered by it.
        loss_frac: Share of packets lost in each direction.
    """

    lower: Name
    upper: Name
    up_bps: Positive
    down_bps: Positive
    rtt_s: NotNegative
    jitter_s: NotNegative = 0.0
    loss_frac: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class Scaling(Spec, frozen=True, kw_only=True):
    """How far an emulated topology was scaled down to fit a machine.

    Attributes:
        factor: CPUs and memory of every emulated tier were multiplied by this (1 means not scaled).
        wanted_cpus: CPUs of the largest emulated tier as asked for.
        machine_cpus: CPUs this process may use.
    """

    factor: float
    wanted_cpus: float
    machine_cpus: float


class Topology(Spec, frozen=True, kw_only=True):
    """Tiers in order from the device upward, and one link between each two neighbours.

    Attributes:
        name: Name of the preset or file.
        tiers: From the device (where the data lie and answers are wanted) upward.
        links: ``links[i]`` joins ``tiers[i]`` and ``tiers[i + 1]``.
        source: Where the figures come from.
    """

    name: str
    tiers: Annotated[tuple[Tier, ...], msgspec.Meta(min_length=1)]
    links: tuple[Link, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        """Check what the types cannot: unique names and links that join neighbours in order."""
        names = [tier.name for tier in self.tiers]
        if len(set(names)) != len(names):
            raise ValueError(f"tier names must be unique, but got {names}")
        wanted = list(itertools.pairwise(names))
        got = [(link.lower, link.upper) for link in self.links]
        if got != wanted:
            raise ValueError(f"links must join neighbouring tiers in order, {wanted}, but got {got}")

    def tier(self, name: str) -> Tier:
        """The tier called ``name``; KeyError where there is none."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)

    def index(self, name: str) -> int:
        """Position of the tier called ``name``, 0 being the device."""
        return [tier.name for tier in self.tiers].index(name)
