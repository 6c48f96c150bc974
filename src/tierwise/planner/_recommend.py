"""The deployment to take, with its evidence, what it was chosen over, and what would change the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import msgspec

from tierwise._errors import InputError
from tierwise.planner._compare import Comparison, Contrast, Figures, Tests
from tierwise.planner._evidence import Evidence, Subject
from tierwise.planner._fit import Violation, objective, violations
from tierwise.planner._links import LinkCheck, Sweep, check_links, sweeps
from tierwise.planner._need import Need

__all__ = ["Excluded", "Recommendation", "Relaxation", "recommend"]


@final
class Excluded(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that does not fit.

    Attributes:
        id: Its id.
        violations: Every constraint that it does not meet.
    """

    id: str
    violations: tuple[Violation, ...]


@final
class Relaxation(msgspec.Struct, frozen=True, kw_only=True):
    """The least change of constraints that lets a deployment in.

    Attributes:
        id: The deployment.
        violations: What has to give; ``got`` is the bound that would do.
    """

    id: str
    violations: tuple[Violation, ...]


@final
class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a `Need`.

    Attributes:
        subject: Name of the subject.
        need: What was asked.
        chosen: Id of the deployment to take; None where none fits.
        why: One sentence.
        figures: Of all deployments, in order.
        tied: Those that cannot be told apart from the best by the objective, each against the chosen one.
        runner_up: The chosen one against the best of those that fit and are not tied; None where there is none.
        against_baseline: The chosen one against the baseline, on the same placement where there is one; None where it
            is the baseline or there is none.
        excluded: Those that do not fit.
        relaxations: Where none fits: the nearest deployment first, then for each constraint that alone stands in the
            way of one, the least that it would have to give.
        tests: The test over all deployments; None where there is one only.
        sweeps: Who wins at which rate, round trip or size of input. Winners are told by point estimates; figures within
            the margin count as equal there.
        link_checks: The link model beside every measured link time.
        notes: What a reader should know.
    """

    subject: str
    need: Need
    chosen: str | None
    why: str
    figures: tuple[Figures, ...]
    tied: tuple[Contrast, ...] = ()
    runner_up: Contrast | None = None
    against_baseline: Contrast | None = None
    excluded: tuple[Excluded, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()
    tests: Tests | None = None
    sweeps: tuple[Sweep, ...] = ()
    link_checks: tuple[LinkCheck, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, id: str) -> Figures:
        """Figures of one deployment; KeyError where there is none."""
        for figures in self.figures:
            if figures.id == id:
                return figures
        raise KeyError(id)


def recommend(evidence: Evidence, need: Need, subject: str | None = None, *, seed: int = 0) -> Recommendation:
    """Choose a deployment.

    Among those that fit, the one with the smallest objective is the best; those tied with it are as good; of these the
    one that loses least accuracy is taken, then the one with least training, then the smaller objective.

    Args:
        evidence: All that is known.
        need: Constraints and objective.
        subject: Name of the subject; None where there is one only.
        seed: Root of the bootstrap's draws.

    Raises:
        InputError: No such subject, a tier that nothing runs on, a bound on accuracy without a baseline, or an
            objective that is known of no deployment.
    """
    chosen_subject = evidence.subject(subject)
    comparison = Comparison(evidence, chosen_subject, need, seed=seed)
    figures = {name: comparison.figures(name) for name in comparison.deployments}
    _check(evidence, chosen_subject, need, figures)
    broken = {name: _broken(evidence, comparison, figures[name], need) for name in figures}
    fitting = [name for name, found in broken.items() if not found]
    answer = Recommendation(
        subject=chosen_subject.name,
        need=need,
        chosen=None,
        why="no deployment fits",
        figures=tuple(figures.values()),
        excluded=tuple(Excluded(id=name, violations=found) for name, found in broken.items() if found),
        tests=comparison.tests,
        link_checks=check_links(evidence, chosen_subject),
        notes=evidence.notes,
    )
    if not fitting:
        relaxations = _relaxations(answer.excluded)
        why = f"{answer.why}; the nearest is {relaxations[0].id}" if relaxations else answer.why
        return msgspec.structs.replace(answer, why=why, relaxations=relaxations)
    best = min(fitting, key=lambda name: _key(figures[name], need))
    tied = [name for name in fitting if name != best and _is_tied(comparison, figures, need, best, name)]
    chosen = min([best, *tied], key=lambda name: _tie_key(figures[name], need))
    rest = sorted((n for n in fitting if n not in {best, *tied}), key=lambda name: _key(figures[name], need))
    base = evidence.baseline(comparison.deployments[chosen])
    found, notes = _sensitivity(evidence, comparison, figures, need, chosen)
    ties = tuple(comparison.contrast(chosen, name) for name in [best, *tied] if name != chosen)
    return msgspec.structs.replace(
        answer,
        chosen=chosen,
        why=_why(figures, need, best, chosen, ties),
        tied=ties,
        runner_up=comparison.contrast(chosen, rest[0]) if rest else None,
        against_baseline=None if base is None or base.id == chosen else comparison.contrast(chosen, base.id),
        sweeps=found,
        notes=(*evidence.notes, *notes, *_doubts(figures[chosen], need)),
    )


def _check(evidence: Evidence, subject: Subject, need: Need, figures: Mapping[str, Figures]) -> None:
    known = {tier for one in figures.values() for tier in (*one.tiers, *one.placement.split("|"))}
    if need.tiers is not None and not set(need.tiers) <= known:
        raise InputError(f"tiers must be among those of the study ({', '.join(sorted(known))})", got=need.tiers)
    if need.max_accuracy_drop is not None and all(one.accuracy_lost is None for one in figures.values()):
        raise InputError(
            f"a bound on the accuracy lost needs a baseline's accuracy for subject {subject.name}",
            got="none in the study",
            fix="Add the strategy identity to the study, or name another with `tierwise study import --baseline`",
        )
    if all(objective(one, need.minimize) is None for one in figures.values()):
        missing = next((one.missing for one in figures.values() if one.missing), f"{need.minimize} is not known")
        raise InputError(f"the objective {need.minimize} must be known of one deployment at least", got=missing)


def _broken(evidence: Evidence, comparison: Comparison, figures: Figures, need: Need) -> tuple[Violation, ...]:
    deployment = comparison.deployments[figures.id]
    base = evidence.baseline(deployment)
    metric = evidence.subject(deployment.subject).metric
    found = violations(figures, need, None if base is None else base.accuracies[metric])
    if found or objective(figures, need.minimize) is not None:
        return found
    text = figures.missing if need.minimize == "latency" else f"{need.minimize} is not known"
    return (Violation(constraint=f"minimize {need.minimize}", asked=0, got=None, excess_frac=None, text=text),)


def _key(figures: Figures, need: Need) -> float:
    value = objective(figures, need.minimize)
    return math.inf if value is None else value


def _tie_key(figures: Figures, need: Need, value: float | None = None) -> tuple[float, float, float, float]:
    lost = math.inf if figures.accuracy_lost is None else figures.accuracy_lost
    training = math.inf if figures.training_s is None else figures.training_s
    own = _key(figures, need) if value is None else value
    latency = math.inf if figures.latency_s is None else figures.latency_s.value
    # Accuracy as the objective is tied here already: then latency is what is left to gain.
    return (latency, training, own, 0.0) if need.minimize == "accuracy-drop" else (lost, training, own, latency)


def _is_tied(comparison: Comparison, figures: Mapping[str, Figures], need: Need, best: str, other: str) -> bool:
    """Whether the objective gives no reason to prefer ``best``."""
    if need.minimize == "latency":
        return comparison.contrast(best, other).tied(need.tests)
    first, second = _key(figures[best], need), _key(figures[other], need)
    if need.minimize != "accuracy-drop":
        return second <= first * (1 + need.margin_frac)
    if second - first <= 1e-12:
        return True
    # By answers to the same items where they are known; without any interval, only equal figures are tied.
    gap = comparison.accuracy_gap(best, other)
    return gap is not None and gap.holds(0.0)


def _why(figures: Mapping[str, Figures], need: Need, best: str, chosen: str, tied: Sequence[Contrast]) -> str:
    told = f"p{100 * need.at:g} latency" if need.minimize == "latency" else need.minimize
    if not tied:
        return f"smallest {told} of those that fit"
    if need.minimize == "accuracy-drop":
        return f"no fitting deployment provably loses less accuracy, and of the {len(tied) + 1} tied it is the fastest"
    if chosen == best:
        return f"smallest {told}; the {len(tied)} tied with it lose no less accuracy, nor as much for less training"
    own, first = figures[chosen], figures[best]
    lost = own.accuracy_lost, first.accuracy_lost
    if lost[0] is not None and lost[1] is not None and lost[0] < lost[1]:
        gain = f"loses {100 * (lost[1] - lost[0]):.2f} pp less accuracy"
        answers = next(one.accuracy for one in tied if one.second == best)
        if answers is not None and answers.p >= 0.05:
            gain += " (a point estimate: on the test items the two cannot be told apart)"
    elif own.training_s is not None and (first.training_s is None or own.training_s < first.training_s):
        gain = "needs less training at the same accuracy"
    else:
        gain = "its accuracy is known"
    return f"tied with {best} in {told}, and {gain}"


def _doubts(figures: Figures, need: Need) -> list[str]:
    doubts = []
    latency, bound = figures.latency_s, need.max_latency_s
    if bound is not None and latency is not None and latency.high > bound:
        doubts.append(f"the interval of {figures.id}'s latency reaches beyond the bound: measure more to be sure")
    if figures.error_frac > 0:
        doubts.append(
            f"{100 * figures.error_frac:.2g} % of the requests to {figures.id} failed; they are not in latency"
        )
    return doubts


def _relaxations(excluded: Sequence[Excluded]) -> tuple[Relaxation, ...]:
    """The nearest deployment, then per constraint the cheapest way in by that constraint alone."""
    able = [one for one in excluded if all(each.excess_frac is not None for each in one.violations)]
    if not able:
        return ()
    nearest = min(able, key=lambda one: (len(one.violations), sum(each.excess_frac or 0 for each in one.violations)))
    found = [Relaxation(id=nearest.id, violations=nearest.violations)]
    alone: dict[str, Excluded] = {}
    for one in able:
        if len(one.violations) == 1:
            name = one.violations[0].constraint
            if name not in alone or _excess(one) < _excess(alone[name]):
                alone[name] = one
    found += [Relaxation(id=one.id, violations=one.violations) for one in alone.values() if one.id != nearest.id]
    return tuple(found)


def _excess(one: Excluded) -> float:
    return one.violations[0].excess_frac or 0.0


def _sensitivity(
    evidence: Evidence, comparison: Comparison, figures: Mapping[str, Figures], need: Need, chosen: str
) -> tuple[tuple[Sweep, ...], list[str]]:
    if not evidence.links:
        return (), ["no figures of links: what other links would change cannot be said"]
    able = [one for one in comparison.deployments.values() if one.hops is not None]
    left = len(comparison.deployments) - len(able)
    notes = [f"{left} deployments with unknown bytes are left out of what-if questions"] if left else []
    if need.minimize == "energy":
        notes.append("what-if questions take energy as it is now")

    def decide(change_s: Mapping[str, float]) -> str | None:
        moved = {one.id: _moved(figures[one.id], change_s[one.id]) for one in able}
        fit = {n: f for n, f in moved.items() if not _broken(evidence, comparison, f, need)}
        if not fit:
            return None
        least = min(_key(f, need) for f in fit.values())
        close = [f for f in fit.values() if _key(f, need) <= least + need.margin_frac * abs(least)]
        return min(close, key=lambda f: _tie_key(f, need)).id

    now = decide({one.id: 0.0 for one in able})
    if now != chosen:
        notes.append(f"what-if questions start from {now}: they go by point estimates and the margin alone")
    return sweeps(evidence, able, decide), notes


def _moved(figures: Figures, change_s: float) -> Figures:
    latency = figures.latency_s
    if latency is None or change_s == 0:
        return figures
    value = max(latency.value + change_s, 1e-9)
    shift = value - latency.value
    moved = msgspec.structs.replace(
        latency, value=value, low=max(latency.low + shift, 1e-9), high=max(latency.high + shift, 1e-9)
    )
    return msgspec.structs.replace(figures, latency_s=moved)
