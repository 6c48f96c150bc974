"""Where the segments of a strategy go on nodes that already run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tierwise._errors import SpecError
from tierwise.runtime import Placed, Share
from tierwise.study._results import Strategy
from tierwise.topology import Topology

__all__ = ["Hop", "hops_of"]


@final
@dataclass(frozen=True)
class Hop:
    """One node of a deployment.

    Attributes:
        tier: Its tier.
        placed: Its address and share.
    """

    tier: str
    placed: Placed

    @property
    def role(self) -> str:
        """What the node does, for a person."""
        first, last = self.placed.share.segments or (0, 0)
        if first == last:
            return "passes requests on"
        return f"runs segment {first}" if last == first + 1 else f"runs segments {first} to {last - 1}"


def hops_of(strategy: Strategy, segments: int, topology: Topology) -> tuple[Hop, ...]:
    """The nodes of a strategy in the order a request passes them.

    A tier below or between that runs no segment passes requests on where it names an address, and is passed over where
    it names none: the client, or the node below, then talks to the next one.

    Args:
        strategy: What to deploy.
        segments: How many its artifact has; the last tier runs all that are left (exits make several on one tier).
        topology: Tiers with the addresses of their nodes, as this machine and the tier below both reach them.

    Raises:
        SpecError: A tier of the strategy is not in the topology, does not climb there, or names no address.
    """
    names = [tier.name for tier in topology.tiers]
    where = f"topology {topology.name}"
    unknown = [tier for tier in strategy.segments if tier not in names]
    if unknown:
        raise SpecError(
            f"the topology must have the tiers of {strategy.id} (no {unknown[0]!r})", got=", ".join(names), where=where
        )
    positions = [names.index(tier) for tier in strategy.segments]
    if positions != sorted(set(positions)):
        raise SpecError(f"the tiers of {strategy.id} must climb", got=", ".join(names), where=where)
    taken = [
        tier
        for tier in topology.tiers[: positions[-1] + 1]
        if tier.address is not None or tier.name in strategy.segments
    ]
    for tier in taken:
        if tier.address is None:
            raise SpecError(
                f"the tier {tier.name!r} runs a segment of {strategy.id}, so its node's address must be known",
                got="none",
                where=where,
                fix=f'Start a node there and write address = "HOST:PORT" under the tier {tier.name}',
            )
    addresses = [str(tier.address) for tier in taken]
    if len(set(addresses)) != len(addresses):
        raise SpecError("every tier must have a node of its own", got=", ".join(addresses), where=where)
    hops: list[Hop] = []
    done = 0
    for position, tier in enumerate(taken):
        last = position + 1 == len(taken)
        runs = segments - done if last else strategy.segments.count(tier.name)
        forward = None if last else addresses[position + 1]
        share = Share(segments=(done, done + runs), forward=forward)
        hops.append(Hop(tier=tier.name, placed=Placed(control=addresses[position], share=share)))
        done += runs
    return tuple(hops)
