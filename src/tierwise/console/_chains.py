"""Deployments as nodes tell them: which parts of a model belong together, and which node a link leads to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from tierwise.console._node_watch import Glance, Part

__all__ = ["Chain", "Seen", "Step", "chains", "next_node"]

# A model of the nodes' own, not a deployment.
_BUILT_IN: Final = "tierwise."


@final
@dataclass(frozen=True)
class Seen:
    """A node and what was seen of it last.

    Attributes:
        address: Where the console reaches it.
        tier: Its name: what the topology calls it, else what it calls itself, else its address.
        glance: The last look.
    """

    address: str
    tier: str
    glance: Glance


@final
@dataclass(frozen=True)
class Step:
    """A part of a deployment.

    Attributes:
        node: Number of the node; None for one that is not watched.
        part: What it serves; None where that is not known.
    """

    node: int | None
    part: Part | None


@final
@dataclass(frozen=True)
class Chain:
    """The way of a request: parts of one artifact, from where it comes in to where the answer is made."""

    model: str
    steps: tuple[Step, ...]


def next_node(nodes: Sequence[Seen], lower: int, forward: str) -> int | None:
    """The node that ``forward`` of node ``lower`` leads to; None where it is not watched, or not to be told.

    An address says it where console and node use the same; otherwise the tier that answered there last says it.
    """
    for i, node in enumerate(nodes):
        if node.address == forward:
            return i
    span = nodes[lower].glance.span
    if span is None:
        return None
    peers = {have.get("peer") for have, _ in span.later.each("tierwise_link_peer_info") if have.get("link") == forward}
    found = [i for i, node in enumerate(nodes) if i != lower and node.tier in peers]
    return found[0] if len(found) == 1 else None


def chains(nodes: Sequence[Seen]) -> list[Chain]:
    """All deployments, by name and then from the device upward."""
    served = [
        (i, part)
        for i, node in enumerate(nodes)
        for part in node.glance.parts
        if not part.model.startswith(_BUILT_IN) and part.state == "READY"
    ]
    above: dict[tuple[int, str], Step] = {}
    for i, part in served:
        if part.forward is not None:
            above[i, part.model] = _above(nodes, served, i, part)
    reached = {(step.node, step.part.model) for step in above.values() if step.part is not None}
    found = []
    for i, part in served:
        if (i, part.model) in reached:
            continue
        steps = [Step(i, part)]
        # A ring of forwards must not be followed for ever.
        while (last := steps[-1]).node is not None and last.part is not None and len(steps) <= len(nodes):
            onward = above.get((last.node, last.part.model))
            if onward is None:
                break
            steps.append(onward)
        found.append(Chain(part.model, tuple(steps)))
    return sorted(found, key=lambda chain: (chain.model, chain.steps[0].node or 0))


def _above(nodes: Sequence[Seen], served: Sequence[tuple[int, Part]], lower: int, part: Part) -> Step:
    """What comes after ``part``."""
    wanted = part.forward_model or part.model
    node = next_node(nodes, lower, part.forward or "")
    fits = [
        (i, other)
        for i, other in served
        if other.model == wanted and (i == node if node is not None else i != lower and _follows(part, other))
    ]
    if len(fits) == 1:
        return Step(*fits[0])
    return Step(node, None)


def _follows(part: Part, other: Part) -> bool:
    """Whether ``other`` begins where ``part`` ends: how the next part is told before a request has gone there."""
    if part.segments is None or other.segments is None or part.digest != other.digest:
        return False
    return other.segments[0] == part.segments[1]
