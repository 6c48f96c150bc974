"""The decision table: per kind of subject and tier, which operator for which need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import final

import msgspec
import numpy as np

from tierwise.planner._evidence import Deployment, Evidence

__all__ = ["Decision", "decision_table"]


@final
class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        kind: Kind of the subjects it holds for.
        subjects: Their names.
        placement: Where; ``any`` for the best over all placements.
        need: What is wanted.
        choice: Id of the strategy that serves it best; None where none does.
        median_s: Geometric mean over the subjects of its median latency.
        speedup: Geometric mean of the baseline's median on the same placement over its own; None without one.
        accuracy_lost: The largest loss over the subjects; None where unknown.
        training_s: Sum over the subjects; None where unknown.
    """

    kind: str
    subjects: tuple[str, ...]
    placement: str
    need: str
    choice: str | None
    median_s: float | None = None
    speedup: float | None = None
    accuracy_lost: float | None = None
    training_s: float | None = None


@final
class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One strategy over all subjects of a kind."""

    id: str
    placement: str
    median_s: float
    speedup: float | None
    lost: float | None
    training_s: float | None
    artifact_bytes: float | None


_NEEDS: tuple[tuple[str, float, Callable[[_Entry], tuple[float, ...]]], ...] = (
    ("lowest latency", math.inf, lambda e: (e.median_s,)),
    ("... with at most 5 pp lost", 0.05, lambda e: (e.median_s,)),
    ("... with at most 1 pp lost", 0.01, lambda e: (e.median_s,)),
    ("least training", math.inf, lambda e: (_or_inf(e.training_s), e.median_s)),
    ("least accuracy lost", math.inf, lambda e: (_or_inf(e.lost), e.median_s)),
    ("smallest artifact", math.inf, lambda e: (_or_inf(e.artifact_bytes), e.median_s)),
)


def decision_table(evidence: Evidence, subject: str | None = None) -> tuple[Decision, ...]:
    """The table, by point estimates: `tierwise.planner.recommend` has the statistics of a single decision.

    A strategy counts for a kind where every subject of that kind has it.

    Args:
        evidence: All that is known.
        subject: Only this one; None: all, subjects of one kind together.

    Raises:
        InputError: No such subject.
    """
    subjects = evidence.subjects if subject is None else (evidence.subject(subject),)
    lines: list[Decision] = []
    for kind in dict.fromkeys(one.kind for one in subjects):
        own = [one.name for one in subjects if one.kind == kind]
        entries = _entries(evidence, own)
        for placement in [*dict.fromkeys(entry.placement for entry in entries), "any"]:
            here = [entry for entry in entries if placement in {"any", entry.placement}]
            lines += [_decision(kind, own, placement, need, here) for need in _NEEDS]
    return tuple(line for line in lines if line.choice is not None)


def _decision(
    kind: str,
    subjects: Sequence[str],
    placement: str,
    need: tuple[str, float, Callable[[_Entry], tuple[float, ...]]],
    entries: Sequence[_Entry],
) -> Decision:
    name, most_lost, key = need
    able = [entry for entry in entries if most_lost == math.inf or _or_inf(entry.lost) <= most_lost + 1e-12]
    able = [entry for entry in able if key(entry)[0] < math.inf]
    best = min(able, key=key) if able else None
    return Decision(
        kind=kind,
        subjects=tuple(subjects),
        placement=placement,
        need=name,
        choice=None if best is None else best.id,
        median_s=None if best is None else best.median_s,
        speedup=None if best is None else best.speedup,
        accuracy_lost=None if best is None else best.lost,
        training_s=None if best is None else best.training_s,
    )


def _entries(evidence: Evidence, subjects: Sequence[str]) -> list[_Entry]:
    by_subject = [{one.id: one for one in evidence.deployments if one.subject == name} for name in subjects]
    shared = [id for id in by_subject[0] if all(id in own for own in by_subject)]
    medians = {key: float(np.median(own.latency_s)) for key, own in evidence.samples.items()}
    return [_entry(evidence, [own[id] for own in by_subject], medians) for id in shared]


def _entry(evidence: Evidence, parts: Sequence[Deployment], medians: Mapping[tuple[str, str], float]) -> _Entry:
    bases = [evidence.baseline(one) for one in parts]
    speedups = [
        medians[base.key] / medians[one.key]
        for one, base in zip(parts, bases, strict=True)
        if base is not None and base.placement == one.placement
    ]
    losses = [evidence.accuracy_lost(one) for one in parts]
    training = [one.training_s for one in parts]
    sizes = [one.artifact_bytes for one in parts]
    return _Entry(
        id=parts[0].id,
        placement=parts[0].placement,
        median_s=_mean([medians[one.key] for one in parts]),
        speedup=_mean(speedups) if len(speedups) == len(parts) else None,
        lost=max((loss for loss in losses if loss is not None), default=None) if None not in losses else None,
        training_s=sum(cost for cost in training if cost is not None) if None not in training else None,
        artifact_bytes=sum(size for size in sizes if size is not None) if None not in sizes else None,
    )


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value
