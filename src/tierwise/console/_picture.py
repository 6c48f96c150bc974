"""What the page shows: one value that holds all of it, so that a reader who missed some loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

from tierwise.console._chains import Chain, Seen, Step, chains, next_node
from tierwise.console._client_watch import ClientGlance
from tierwise.topology import Link

__all__ = ["ChainView", "LinkView", "NodeView", "Picture", "StageView", "draw"]

_MANY: Final = 32


@final
@dataclass(frozen=True)
class NodeView:
    """A node; rates are of the last seconds.

    Attributes:
        tier: Its name.
        address: Where it is reached.
        state: ``up``, ``down`` or ``odd``.
        reason: Why it is not up.
        for_s: How long it has been so.
        version: What it says it is.
        rss_bytes: Resident memory.
        cpus: CPUs its process keeps busy.
        under_way: Requests it holds now.
        requests_per_s: Requests it answers.
        models: Models it serves.
        refusals: (code, in all, a second).
    """

    tier: str
    address: str
    state: str
    reason: str
    for_s: float
    version: str
    rss_bytes: float | None
    cpus: float | None
    under_way: float | None
    requests_per_s: float | None
    models: int
    refusals: tuple[tuple[str, float, float], ...]


@final
@dataclass(frozen=True)
class LinkView:
    """A link from a node up to the next, as the lower one's forwards saw it.

    Attributes:
        lower: Number of the lower node.
        upper: Number of the upper one; None where it is not watched.
        address: Where the lower one reaches the upper; None where nothing goes over it.
        state: ``up``, ``down``, ``quiet`` (nothing went over it lately), ``unused`` (no part forwards over it).
        rtt_s: Round trip of a small message, as the forwards tell.
        goodput_up_bps: What it carries upwards, as large forwards tell; None where there were none.
        goodput_down_bps: What it carries downwards.
        up_bps: Message bits a second sent upwards lately.
        down_bps: Message bits a second that came down.
        forwards_per_s: Requests that went over it.
        failures: Forwards that got no answer, in all.
        asked: What the topology says: (up_bps, down_bps, rtt_s).
    """

    lower: int
    upper: int | None
    address: str | None
    state: str
    rtt_s: float | None = None
    goodput_up_bps: float | None = None
    goodput_down_bps: float | None = None
    up_bps: float = 0.0
    down_bps: float = 0.0
    forwards_per_s: float = 0.0
    failures: float = 0.0
    asked: tuple[float, float, float] | None = None


@final
@dataclass(frozen=True)
class StageView:
    """A stage of a deployment.

    Attributes:
        tier: Where.
        stage: Which.
        mean_s: Its mean share of a request: the shares of all stages add up.
        p50_s: Its median.
        p95_s: Its 95th percentile.
    """

    tier: str
    stage: str
    mean_s: float
    p50_s: float | None
    p95_s: float | None


@final
@dataclass(frozen=True)
class ChainView:
    """A deployment.

    Attributes:
        key: Tells it from the others, from one picture to the next.
        model: Its name.
        label: What the deployer calls it.
        steps: (tier, node's number or None, what it runs, whether it is there).
        whole: Whether all its parts are served by nodes that are up.
        active: Whether requests went this way lately.
        requests_per_s: How many.
        mean_s: Mean time of a request, seen where it comes in.
        p50_s: Its median.
        p95_s: Its 95th percentile.
        stages: Where the time goes.
    """

    key: str
    model: str
    label: str | None
    steps: tuple[tuple[str, int | None, str, bool], ...]
    whole: bool
    active: bool
    requests_per_s: float
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    stages: tuple[StageView, ...]


@final
@dataclass(frozen=True)
class Picture:
    """All of it.

    Attributes:
        time_s: When, seconds since 1970.
        every_s: How often there is a new one.
        window_s: What rates and quantiles are taken over.
        name: Title.
        nodes: From the device upward.
        links: Between them.
        chains: Deployments.
        clients: Applications that were named.
        history: For each chain's key the medians and 95th percentiles lately, the oldest first.
    """

    time_s: float
    every_s: float
    window_s: float
    name: str
    nodes: tuple[NodeView, ...]
    links: tuple[LinkView, ...]
    chains: tuple[ChainView, ...]
    clients: tuple[ClientGlance, ...]
    history: dict[str, tuple[list[float | None], list[float | None]]] = field(default_factory=dict)


def draw(
    seen: Sequence[Seen],
    links: Sequence[Link],
    clients: Sequence[ClientGlance],
    *,
    name: str,
    now_s: float,
    time_s: float,
    every_s: float,
    window_s: float,
) -> Picture:
    """The picture of what was seen.

    Args:
        seen: The nodes, from the device upward.
        links: What a topology says.
        clients: The applications.
        name: Title.
        now_s: On this host's monotonic clock.
        time_s: The same moment since 1970.
        every_s: See `Picture`.
        window_s: See `Picture`.
    """
    found = chains(seen)[:_MANY]
    return Picture(
        time_s=time_s,
        every_s=every_s,
        window_s=window_s,
        name=name,
        nodes=tuple(_node(node, now_s) for node in seen),
        links=tuple(_links(seen, links, found)),
        # What is busy stands on top; what is not keeps its place by name.
        chains=tuple(sorted((_chain(chain, seen) for chain in found), key=lambda chain: not chain.active)),
        clients=tuple(clients),
    )


def _node(node: Seen, now_s: float) -> NodeView:
    glance, span = node.glance, node.glance.span
    refusals: tuple[tuple[str, float, float], ...] = ()
    if span is not None:
        told = [(have["code"], value) for have, value in span.later.each("tierwise_refusals_total") if "code" in have]
        refusals = tuple(
            (code, value, span.rate("tierwise_refusals_total", code=code)) for code, value in sorted(told)[:_MANY]
        )
    return NodeView(
        tier=node.tier,
        address=node.address,
        state=glance.state,
        reason=glance.reason,
        for_s=max(0.0, now_s - glance.since_s),
        version=glance.version,
        rss_bytes=span and span.later.value("process_resident_memory_bytes"),
        cpus=span and span.rate("process_cpu_seconds_total"),
        under_way=span and span.later.value("tierwise_requests_under_way"),
        requests_per_s=span and span.rate("tierwise_request_seconds_count"),
        models=sum(part.state == "READY" for part in glance.parts),
        refusals=refusals,
    )


def _links(seen: Sequence[Seen], asked: Sequence[Link], found: Sequence[Chain]) -> list[LinkView]:
    used: dict[tuple[int, str], int | None] = {}
    for chain in found:
        for step, above in itertools.pairwise(chain.steps):
            if step.node is not None and step.part is not None and step.part.forward is not None:
                used.setdefault((step.node, step.part.forward), above.node)
    views = []
    for (lower, address), upper in used.items():
        upper = next_node(seen, lower, address) if upper is None else upper
        views.append(_link(seen, asked, lower, upper, address))
    # Neighbours over which nothing is forwarded are neighbours all the same.
    joined = {(view.lower, view.upper) for view in views}
    for lower in range(len(seen) - 1):
        if (lower, lower + 1) not in joined and not any(view.lower == lower and view.upper is None for view in views):
            figures = _asked(seen, asked, lower, lower + 1)
            views.append(LinkView(lower=lower, upper=lower + 1, address=None, state="unused", asked=figures))
    return sorted(views, key=lambda view: (view.lower, len(seen) if view.upper is None else view.upper))


def _asked(
    seen: Sequence[Seen], asked: Sequence[Link], lower: int, upper: int | None
) -> tuple[float, float, float] | None:
    for link in asked:
        if upper is not None and (link.lower, link.upper) == (seen[lower].tier, seen[upper].tier):
            return (link.up_bps, link.down_bps, link.rtt_s)
    return None


def _link(seen: Sequence[Seen], asked: Sequence[Link], lower: int, upper: int | None, address: str) -> LinkView:
    span, figures = seen[lower].glance.span, _asked(seen, asked, lower, upper)
    if span is None:
        return LinkView(lower=lower, upper=upper, address=address, state="down", asked=figures)
    now, moves = span.later, span.rate("tierwise_link_forwards_total", link=address)
    up = now.value("tierwise_link_up", link=address)
    carried = [
        None
        if (rate := now.value("tierwise_link_goodput_bytes_per_second", link=address, direction=way)) is None
        else 8 * rate
        for way in ("up", "down")
    ]
    return LinkView(
        lower=lower,
        upper=upper,
        address=address,
        state="down" if up == 0 else "up" if moves > 0 else "quiet",
        rtt_s=now.value("tierwise_link_rtt_seconds", link=address),
        goodput_up_bps=carried[0],
        goodput_down_bps=carried[1],
        up_bps=8 * span.rate("tierwise_link_sent_bytes_total", link=address),
        down_bps=8 * span.rate("tierwise_link_received_bytes_total", link=address),
        forwards_per_s=moves,
        failures=now.value("tierwise_link_failures_total", link=address) or 0.0,
        asked=figures,
    )


def _chain(chain: Chain, seen: Sequence[Seen]) -> ChainView:
    first = chain.steps[0]
    entry = seen[first.node].glance.span if first.node is not None else None
    spread = entry.spread("tierwise_request_seconds", model=chain.model) if entry else None
    count = spread.count if spread else 0.0
    steps = tuple(
        (
            "not watched" if step.node is None else seen[step.node].tier,
            step.node,
            _runs(step),
            step.part is not None and step.node is not None and seen[step.node].glance.state == "up",
        )
        for step in chain.steps
    )
    return ChainView(
        key="|".join([chain.model, *(f"{node}" for _, node, _, _ in steps)]),
        model=chain.model,
        label=first.part.label if first.part else None,
        steps=steps,
        whole=all(there for *_, there in steps),
        active=count > 0,
        requests_per_s=entry.rate("tierwise_request_seconds_count", model=chain.model) if entry else 0.0,
        mean_s=spread.mean_s if spread else None,
        p50_s=spread.p50_s if spread else None,
        p95_s=spread.p95_s if spread else None,
        stages=tuple(_stages(chain, seen, count)) if count > 0 else (),
    )


def _runs(step: Step) -> str:
    if step.part is None:
        return "unknown"
    if step.part.segments is None:
        return "whole model"
    first, end, count = step.part.segments
    if first == end:
        return "passes on"
    if (first, end) == (0, count):
        return "whole model"
    return f"segment {first + 1} of {count}" if end == first + 1 else f"segments {first + 1}-{end} of {count}"


def _stages(chain: Chain, seen: Sequence[Seen], requests: float) -> list[StageView]:
    views = []
    for step in chain.steps:
        span = seen[step.node].glance.span if step.node is not None else None
        if span is None or step.part is None or step.node is None:
            continue
        name, model = "tierwise_stage_seconds", step.part.model
        told = (have for have, _ in span.later.each(f"{name}_count") if have.get("model") == model)
        stages = [have["stage"] for have in told if "stage" in have]
        for stage in list(dict.fromkeys(stages))[:_MANY]:
            spread = span.spread(name, model=model, stage=stage)
            if spread.mean_s is not None:
                share = spread.mean_s * spread.count / requests
                views.append(StageView(seen[step.node].tier, stage, share, spread.p50_s, spread.p95_s))
    return views
