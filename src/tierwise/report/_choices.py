"""What the evidence allows to choose: the one place where the page meets the planner's statistics and decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from tierwise._errors import InputError, StoreError
from tierwise._units import format_seconds
from tierwise.measure import Energy
from tierwise.planner import (
    AccuracyDrop,
    Comparison,
    Decision,
    Deployment,
    Evidence,
    Need,
    Recommendation,
    Subject,
    decision_table,
    recommend,
)
from tierwise.report._rows import MAX_ERROR_FRAC
from tierwise.study import StudyData, evidence_of

__all__ = ["BUDGET", "WITHIN", "Asked", "Choices", "choose", "duration_text", "energy_text", "evidence_if_any"]

BUDGET = AccuracyDrop(frac=0.01)
"""What may be lost where a question says "within the budget": one percentage point."""

WITHIN = f"at most {100 * BUDGET.frac:g} pp lost"
"""The same in words."""


@final
@dataclass(frozen=True)
class Asked:
    """One question and its answer.

    Attributes:
        need: In words, ``Fastest, at most 1 pp lost``.
        found: The planner's answer.
    """

    need: str
    found: Recommendation


@final
@dataclass(frozen=True, eq=False)
class Choices:
    """All answers for one subject.

    Attributes:
        subject: The subject.
        deployments: Those that answer reliably, the fastest at the median first.
        left_out: Ids of those that fail too often to be ranked.
        comparison: Of ``deployments``, at the median.
        margin_frac: Largest relative difference of latencies that does not matter.
        fastest: Whatever it costs.
        thrifty: The fastest within `BUDGET`; None where no accuracy is known.
        beyond: As ``thrifty``, of those that do not compute on the device at all; None where there are none, or where
            something that uses links wins anyway.
        asked: Every question, those two first.
        table: The planner's table, by point estimates.
    """

    subject: Subject
    deployments: tuple[Deployment, ...]
    left_out: tuple[str, ...]
    comparison: Comparison
    margin_frac: float
    fastest: Recommendation
    thrifty: Recommendation | None
    beyond: Recommendation | None
    asked: tuple[Asked, ...]
    table: tuple[Decision, ...]

    @property
    def recommended(self) -> str | None:
        """The deployment that the page recommends: within the budget where that can be said, else the fastest."""
        return (self.thrifty or self.fastest).chosen

    def deployment(self, id: str) -> Deployment:
        """One of ``deployments``; KeyError where it is none of them."""
        return self.comparison.deployments[id]


def evidence_if_any(data: StudyData) -> Evidence | None:
    """The evidence of a study; None where nothing has been answered yet."""
    try:
        return evidence_of(data)
    except StoreError:
        return None


def choose(evidence: Evidence, subject: Subject) -> Choices | None:
    """Ask for one subject what a reader of the page would ask; None where too little was measured to compare anything.

    Deployments that fail too often take no part: the latency of requests that happened to succeed says little.
    """
    own = evidence.of(subject)
    reliable = [one for one in own if one.errors <= MAX_ERROR_FRAC * one.requests]
    pool = dataclasses.replace(evidence, subjects=(subject,), deployments=tuple(reliable))
    need = Need()
    try:
        comparison = Comparison(pool, subject, need)
        fastest = recommend(pool, need)
    except InputError:
        return None
    thrifty = _answer(pool, Need(max_accuracy_drop=BUDGET))
    median = {one.id: comparison.figures(one.id).median_s for one in reliable}
    return Choices(
        subject=subject,
        deployments=tuple(sorted(reliable, key=lambda one: (median[one.id], one.id))),
        left_out=tuple(one.id for one in own if one not in reliable),
        comparison=comparison,
        margin_frac=need.margin_frac,
        fastest=fastest,
        thrifty=thrifty,
        beyond=_beyond(pool, reliable, fastest, thrifty),
        asked=tuple(_asked(pool, reliable, fastest, thrifty)),
        table=decision_table(pool),
    )


def _answer(pool: Evidence, need: Need) -> Recommendation | None:
    try:
        return recommend(pool, need)
    except InputError:
        return None  # what is asked about is not known of anything


def _beyond(
    pool: Evidence, reliable: Sequence[Deployment], fastest: Recommendation, thrifty: Recommendation | None
) -> Recommendation | None:
    """Where one that needs no link wins at every rate, other links are a question of the remaining ones only."""
    local = {one.id for one in reliable if not one.hops}
    rates = [each for found in (fastest, thrifty) if found for each in found.sweeps if each.axis == "rate"]
    winners = {region.winner for each in rates for region in each.regions}
    if not pool.links or not winners <= local:
        return None
    used = dict.fromkeys(tier for one in reliable for tier in one.placement.split("|"))
    upper = tuple(tier for tier in used if tier != pool.links[0].lower)
    return _answer(pool, Need(tiers=upper, max_accuracy_drop=BUDGET if thrifty else None)) if upper else None


def _asked(
    pool: Evidence, reliable: Sequence[Deployment], fastest: Recommendation, thrifty: Recommendation | None
) -> Iterator[Asked]:
    yield Asked("Lowest latency", fastest)
    if thrifty is not None:
        yield Asked(f"Lowest latency, {WITHIN}", thrifty)
    bound = None if thrifty is None else BUDGET
    tail = "" if thrifty is None else f", {WITHIN}"
    for tier in dict.fromkeys(one.placement for one in reliable if "|" not in one.placement):
        found = _answer(pool, Need(tiers=(tier,), max_accuracy_drop=bound))
        if found is not None:
            yield Asked(f"Computing on {tier} alone{tail}", found)
    for words, quantity in (("Least energy", "energy"), ("Smallest artifact", "size")):
        found = _answer(pool, Need(minimize=quantity, max_accuracy_drop=bound))  # type: ignore[arg-type]
        if found is not None:
            yield Asked(f"{words}{tail}", found)
    if thrifty is not None:
        found = _answer(pool, Need(minimize="accuracy-drop"))
        if found is not None:
            yield Asked("Least accuracy lost", found)


def energy_text(energy: Energy) -> str:
    """As ``3.52 mJ``."""
    for size, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if energy.joules >= 0.9995 * size:
            return f"{energy.joules / size:.3g} {unit}"
    return "0 J" if energy.joules == 0 else f"{energy.joules:.2g} J"


def duration_text(seconds: float) -> str:
    """A duration of training: from two minutes up in minutes, from two hours up in hours.

    Example:
        >>> duration_text(54.9), duration_text(600), duration_text(36000)
        ('54.9 s', '10 min', '10 h')
    """
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return format_seconds(seconds)
