"""The analytic link model: what a request spends on links, how well that holds, and which deployment wins elsewhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, final

import msgspec

from tierwise.planner._evidence import Deployment, Evidence, Hop, LinkFigures, Subject

__all__ = ["LinkCheck", "Region", "Sweep", "check_links", "link_s", "log_grid", "sweep", "sweeps"]

Decide = Callable[[Mapping[str, float]], str | None]
"""From a change of latency in seconds by deployment id to the id of the winner; None where none fits."""

_POINTS = 121
_BISECTIONS = 40


@final
class LinkCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A link's time in one measured cell, and what the model says without having seen it.

    Attributes:
        id: Strategy of the cell.
        lower: Tier below the link.
        upper: Tier above it.
        predicted_s: From the cell's bytes and the link's figures alone.
        measured_s: Median of the cell.
        error_frac: Predicted over measured, less 1.
        held_out_s: The same plus the link's fixed overhead, which is the median over all other cells; None where this
            is the only one.
        held_out_error_frac: Its error.
    """

    id: str
    lower: str
    upper: str
    predicted_s: float
    measured_s: float
    error_frac: float
    held_out_s: float | None
    held_out_error_frac: float | None


@final
class Region(msgspec.Struct, frozen=True, kw_only=True):
    """Where one deployment wins.

    Attributes:
        low: From here.
        high: To here.
        winner: Id; None where no deployment fits.
    """

    low: float
    high: float
    winner: str | None


@final
class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity varied, all else as measured.

    Attributes:
        axis: ``rate``: of a link, both directions in proportion, given upwards; ``rtt``; ``input``: bytes of a request
            as the device holds it.
        unit: ``bit/s``, ``s`` or ``B``.
        link: ``mobile - edge``; empty for the input.
        now: Value as measured.
        regions: In ascending order, without gaps.
    """

    axis: Literal["rate", "rtt", "input"]
    unit: str
    link: str
    now: float
    regions: tuple[Region, ...]

    @property
    def changes(self) -> bool:
        """Whether the winner changes at all."""
        return len(self.regions) > 1


def link_s(hop: Hop, link: LinkFigures, *, input_frac: float = 1.0) -> float:
    """Seconds of one request on one link, both ways: bytes * 8 / rate and one round trip."""
    up_bytes = hop.up_bytes * (input_frac if hop.carries == "input" else 1.0)
    return 8 * up_bytes / link.up_bps + 8 * hop.down_bytes / link.down_bps + link.rtt_s


def check_links(evidence: Evidence, subject: Subject) -> tuple[LinkCheck, ...]:
    """Every measured link time beside the model's; the model's figures come from the calibration, never from a cell."""
    links = {(link.lower, link.upper): link for link in evidence.links}
    seen = [
        (deployment, hop, link_s(hop, links[hop.lower, hop.upper]), hop.measured_s)
        for deployment in evidence.of(subject)
        for hop in deployment.hops or ()
        if hop.measured_s is not None and (hop.lower, hop.upper) in links
    ]
    checks = []
    for deployment, hop, predicted, measured in seen:
        rest = [
            other_measured - other
            for another, crossed, other, other_measured in seen
            if crossed.lower == hop.lower and another.id != deployment.id
        ]
        held_out = predicted + statistics.median(rest) if rest else None
        checks.append(
            LinkCheck(
                id=deployment.id,
                lower=hop.lower,
                upper=hop.upper,
                predicted_s=predicted,
                measured_s=measured,
                error_frac=predicted / measured - 1,
                held_out_s=held_out,
                held_out_error_frac=None if held_out is None else held_out / measured - 1,
            )
        )
    return tuple(checks)


def sweeps(evidence: Evidence, candidates: Sequence[Deployment], decide: Decide) -> tuple[Sweep, ...]:
    """Vary rate and round trip of every link in use, and the size of the input, one at a time.

    Only the difference that the model sees is added to a measured latency, so that what it does not see (framing, the
    tiers' own network stacks) stays as measured. Compute times stay as measured, also under another input size.

    Args:
        evidence: Links.
        candidates: Deployments that may win; all of them with known hops.
        decide: Says who wins when latencies change so.
    """
    found = []
    for position, link in enumerate(evidence.links):
        users = [one for one in candidates if any(hop.lower == link.lower for hop in one.hops or ())]
        if not users:
            continue
        rates = log_grid(link.up_bps / 100, link.up_bps * 100)
        trips = log_grid(1e-4, max(1.0, 10 * link.rtt_s))
        for axis, unit, now, grid in (("rate", "bit/s", link.up_bps, rates), ("rtt", "s", link.rtt_s, trips)):
            changed = _link_change(evidence, candidates, position, axis)
            name = f"{link.lower} - {link.upper}"
            found.append(sweep(axis, unit, name, now, grid, changed, decide))  # type: ignore[arg-type]
    hops = [hop for one in candidates for hop in one.hops or ()]
    # An input whose size nothing tells counts as 0 bytes: it cannot be scaled.
    sizes = [hop.up_bytes for hop in hops if hop.carries == "input" and hop.up_bytes > 0]
    if sizes and evidence.links:
        now = statistics.median(sizes)
        changed = _input_change(evidence, candidates, now)
        found.append(sweep("input", "B", "", now, log_grid(now / 100, now * 100), changed, decide))
    return tuple(found)


def _link_change(
    evidence: Evidence, candidates: Sequence[Deployment], position: int, axis: str
) -> Callable[[float], Mapping[str, float]]:
    link = evidence.links[position]

    def change(value: float) -> Mapping[str, float]:
        if axis == "rate":
            factor = value / link.up_bps
            other = msgspec.structs.replace(link, up_bps=value, down_bps=link.down_bps * factor)
        else:
            other = msgspec.structs.replace(link, rtt_s=value)
        return {
            one.id: sum(link_s(hop, other) - link_s(hop, link) for hop in one.hops or () if hop.lower == link.lower)
            for one in candidates
        }

    return change


def _input_change(
    evidence: Evidence, candidates: Sequence[Deployment], now: float
) -> Callable[[float], Mapping[str, float]]:
    links = {(link.lower, link.upper): link for link in evidence.links}

    def change(value: float) -> Mapping[str, float]:
        return {
            one.id: sum(
                link_s(hop, links[hop.lower, hop.upper], input_frac=value / now)
                - link_s(hop, links[hop.lower, hop.upper])
                for hop in one.hops or ()
                if (hop.lower, hop.upper) in links
            )
            for one in candidates
        }

    return change


def log_grid(low: float, high: float) -> list[float]:
    """Values from ``low`` to ``high``, each the same factor above the one before."""
    return [low * (high / low) ** (i / (_POINTS - 1)) for i in range(_POINTS)]


def sweep(
    axis: Literal["rate", "rtt", "input"],
    unit: str,
    link: str,
    now: float,
    grid: Sequence[float],
    change: Callable[[float], Mapping[str, float]],
    decide: Decide,
) -> Sweep:
    """One quantity varied along ``grid``: who wins where, the borders found by bisection."""
    winners = [decide(change(value)) for value in grid]
    regions = []
    start = grid[0]
    for left, right, before, after in zip(grid, grid[1:], winners, winners[1:], strict=False):
        if before != after:
            border = _border(left, right, before, change, decide)
            regions.append(Region(low=start, high=border, winner=before))
            start = border
    regions.append(Region(low=start, high=grid[-1], winner=winners[-1]))
    return Sweep(axis=axis, unit=unit, link=link, now=now, regions=tuple(regions))


def _border(
    left: float, right: float, before: str | None, change: Callable[[float], Mapping[str, float]], decide: Decide
) -> float:
    """Where the winner ``before`` loses; with several changes inside one step of the grid, the first of them."""
    for _ in range(_BISECTIONS):
        middle = math.sqrt(left * right)
        left, right = (middle, right) if decide(change(middle)) == before else (left, middle)
    return right
