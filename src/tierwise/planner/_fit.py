"""Whether a deployment fits what is needed, and by how much not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import msgspec

from tierwise._units import format_bytes, format_seconds
from tierwise.planner._compare import Figures
from tierwise.planner._need import Need, Quantity

__all__ = ["Violation", "objective", "violations"]


@final
class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """One constraint that a deployment does not meet.

    Attributes:
        constraint: ``max-latency``, ``max-accuracy-drop``, ``max-energy``, ``max-bytes``, ``max-size``,
            ``max-training-cost`` or ``tiers``.
        asked: The bound, in SI units; for tiers their number.
        got: What the deployment has; None where it is not known.
        excess_frac: How far the bound is exceeded, in bounds; None where no relaxing helps, since nothing is known.
        text: Both as a person reads them.
        uncertain: Whether the interval of the figure reaches the bound, so that it may fit after all.
    """

    constraint: str
    asked: float
    got: float | None
    excess_frac: float | None
    text: str
    uncertain: bool = False


def objective(figures: Figures, quantity: Quantity) -> float | None:
    """The figure to make small; None where it is unknown."""
    match quantity:
        case "latency":
            return None if figures.latency_s is None else figures.latency_s.value
        case "accuracy-drop":
            return figures.accuracy_lost
        case "energy":
            return None if figures.energy is None else figures.energy.joules
        case "bytes":
            return figures.wire_bytes
        case "size":
            return figures.artifact_bytes
        case "training-cost":
            return figures.training_s


def violations(figures: Figures, need: Need, baseline_accuracy: float | None) -> tuple[Violation, ...]:
    """Every constraint that a deployment does not meet.

    Args:
        figures: Of the deployment.
        need: The constraints.
        baseline_accuracy: What accuracy is lost against; None where unknown.
    """
    return tuple(_violations(figures, need, baseline_accuracy))


def _violations(figures: Figures, need: Need, baseline_accuracy: float | None) -> Iterator[Violation]:
    if need.tiers is not None:
        beyond = [tier for tier in figures.placement.split("|") if tier not in need.tiers]
        if beyond:
            yield Violation(
                constraint="tiers",
                asked=len(need.tiers),
                got=len(need.tiers) + len(beyond),
                excess_frac=float(len(beyond)),
                text=f"needs tier {', '.join(beyond)}",
            )
    if need.max_latency_s is not None:
        latency = figures.latency_s
        yield from _beyond(
            "max-latency",
            need.max_latency_s,
            None if latency is None else latency.value,
            format_seconds,
            low=None if latency is None else latency.low,
            unknown=figures.missing,
        )
    if need.max_accuracy_drop is not None:
        allowed = None if baseline_accuracy is None else need.max_accuracy_drop.allowed(baseline_accuracy)
        lost = figures.accuracy_lost_interval
        yield from _beyond(
            "max-accuracy-drop",
            need.max_accuracy_drop.frac if allowed is None else allowed,
            None if allowed is None else figures.accuracy_lost,
            _points,
            low=None if lost is None else lost.low,
            scale=0.01,
        )
    energy = None if figures.energy is None else figures.energy.joules
    for name, bound, got, show in (
        ("max-energy", need.max_energy_j, energy, _joules),
        ("max-bytes", need.max_bytes, figures.wire_bytes, format_bytes),
        ("max-size", need.max_size_bytes, figures.artifact_bytes, format_bytes),
        ("max-training-cost", need.max_training_s, figures.training_s, format_seconds),
    ):
        if bound is not None:
            yield from _beyond(name, bound, got, show)


def _beyond(
    constraint: str,
    bound: float,
    got: float | None,
    show: Callable[[float], str],
    *,
    low: float | None = None,
    scale: float = 1e-9,
    unknown: str = "",
) -> Iterator[Violation]:
    if got is None:
        text = unknown or f"{constraint.removeprefix('max-')} is not known"
        yield Violation(constraint=constraint, asked=bound, got=None, excess_frac=None, text=text)
    elif got > bound + 1e-12:  # a drop of 0.01 and a bound of 1pp differ by rounding
        yield Violation(
            constraint=constraint,
            asked=bound,
            got=got,
            # Relative to the bound; where that is (nearly) 0, to a small unit of the quantity.
            excess_frac=(got - bound) / max(bound, scale),
            text=f"{show(got)} > {show(bound)}",
            uncertain=low is not None and low <= bound,
        )


def _points(frac: float) -> str:
    return f"{100 * frac:.2f} pp"


def _joules(joules: float) -> str:
    return f"{joules:.3g} J"
