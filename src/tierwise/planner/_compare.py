"""Deployments of one subject compared: figures with intervals, and any two of them with test and effect size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import msgspec
import numpy as np

from tierwise._errors import InputError
from tierwise.measure import (
    Blocked,
    Delta,
    Energy,
    Friedman,
    Interval,
    McNemar,
    RankTest,
    Verdict,
    block,
    bootstrap,
    cliffs_delta,
    compare_ratio,
    friedman,
    kruskal_conover,
    mcnemar,
    newcombe,
    wilcoxon_p,
)
from tierwise.planner._evidence import Deployment, Evidence, Subject
from tierwise.planner._need import Need

__all__ = ["Comparison", "Contrast", "Figures", "Tests"]

_SHARES = frozenset({"accuracy", "top-1", "top-5", "top1", "top5"})
"""Metrics that are shares of items, so that the number of items gives an interval; an F1 score is none."""

_ALPHA = 0.05


@final
class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one deployment.

    Attributes:
        id: Name of the strategy.
        name: Its operator chain.
        placement: Where its segments run.
        tiers: Tiers that its requests pass.
        latency_s: The quantile asked for; None where there are too few samples for it (`missing` says so).
        median_s: The median.
        accuracy: By the subject's metric; None where unknown.
        accuracy_lost: Against the baseline; the interval takes both as independent, and is None for metrics that are
            no shares of items.
        energy: Of one request.
        wire_bytes: Of one request over all links.
        artifact_bytes: Size of the artifact.
        training_s: CPU seconds of training and calibration.
        error_frac: Share of failed requests.
        missing: Why ``latency_s`` is None; empty where it is not.
    """

    id: str
    name: str
    placement: str
    tiers: tuple[str, ...]
    latency_s: Interval | None
    median_s: float
    accuracy: float | None
    accuracy_lost: float | None
    accuracy_lost_interval: Interval | None
    energy: Energy | None
    wire_bytes: float | None
    artifact_bytes: int | None
    training_s: float | None
    error_frac: float
    missing: str = ""


@final
class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment against another.

    Attributes:
        first: Id of the one.
        second: Id of the other.
        ratio: First's latency over the second's, at the quantile asked for.
        verdict: What the ratio's interval allows to claim of the first, with the margin.
        p: Of the pair, by the test that `Tests` names.
        delta: Cliff's delta of the latencies; negative where the first is faster.
        accuracy: McNemar's test on the loaded inputs that both answered; None where answers were not judged.
        accuracy_p: Wilcoxon over all accuracies of both operators (published tests only).
    """

    first: str
    second: str
    ratio: Interval
    verdict: Verdict
    p: float
    delta: Delta
    accuracy: McNemar | None = None
    accuracy_p: float | None = None

    def tied(self, tests: str) -> bool:
        """Whether latency gives no reason to prefer the one that is faster by point estimate."""
        if tests == "paper":
            return self.p >= _ALPHA or self.delta.band == "negligible"
        return self.verdict in {"equivalent", "undecided"}


@final
class Tests(msgspec.Struct, frozen=True, kw_only=True):
    """Which test compared all deployments, and what it said.

    Attributes:
        label: Its name, and what it takes for granted.
        statistic: Chi-square.
        p: Of the hypothesis that no deployment differs from another.
        blocks: Complete blocks; None for a test that knows none.
        dropped: Blocks left out since a deployment has no answer there.
    """

    label: str
    statistic: float
    p: float
    blocks: int | None = None
    dropped: int = 0


@final
class Comparison:
    """All deployments of a subject, ready to be compared.

    Args:
        evidence: All that is known.
        subject: The subject.
        need: Which quantile, margin and tests.

    Raises:
        InputError: Too few measurements to compare anything.
    """

    def __init__(self, evidence: Evidence, subject: Subject, need: Need, *, seed: int = 0) -> None:
        self._evidence, self._subject, self._need = evidence, subject, need
        self.deployments = {one.id: one for one in evidence.of(subject)}
        samples = {one.id: evidence.samples[one.key] for one in self.deployments.values()}
        blocked = block(samples)
        self._resampled = bootstrap(blocked, need.at, seed=seed)
        self._latencies = {name: own.latency_s for name, own in samples.items()}
        self._pairs: Friedman | RankTest | None = None
        self.tests: Tests | None = None
        if len(samples) > 1:
            self._test(blocked)

    def _test(self, blocked: Blocked) -> None:
        if self._need.tests == "paper":
            self._pairs = kruskal_conover(self._latencies)
        elif self._subject.paired:
            self._pairs = self._friedman(blocked)
        if self._pairs is None:
            self._pairs = kruskal_conover(self._latencies, adjust=True)
        found = self._pairs
        if isinstance(found, Friedman):
            label = "Friedman, pairs by Conover-Friedman with Holm"
            self.tests = Tests(
                label=label, statistic=found.statistic, p=found.p, blocks=found.blocks, dropped=found.dropped
            )
        else:
            self.tests = Tests(label=found.label, statistic=found.statistic, p=found.p)

    def _friedman(self, blocked: Blocked) -> Friedman | None:
        try:
            return friedman(blocked)
        except InputError:
            return None  # no block that all answered: the test without blocks says so in its label

    def figures(self, id: str) -> Figures:
        """All figures of one deployment; KeyError where there is none."""
        one = self.deployments[id]
        need, samples = self._need, self._latencies[id]
        # As for the p99 of a summary: below this the largest sample may well lie below the quantile.
        least = 1 if need.at <= 0.5 else math.ceil(math.log(1 - need.at) / math.log(need.at) - 1e-9)
        enough = len(samples) >= least
        base = self._evidence.baseline(one)
        return Figures(
            id=one.id,
            name=one.name,
            placement=one.placement,
            tiers=one.tiers,
            latency_s=self._resampled.quantile(id) if enough else None,
            median_s=float(np.median(samples)),
            accuracy=one.accuracies.get(self._subject.metric),
            accuracy_lost=self._evidence.accuracy_lost(one),
            accuracy_lost_interval=None if base is None else self._lost(base, one),
            energy=one.energy,
            wire_bytes=one.wire_bytes,
            artifact_bytes=one.artifact_bytes,
            training_s=one.training_s,
            error_frac=one.errors / one.requests if one.requests else 0.0,
            missing="" if enough else f"no p{100 * need.at:g} from {len(samples)} requests, {least} are needed",
        )

    def accuracy_gap(self, first: str, second: str) -> Interval | None:
        """Accuracy of the first less the second's, both taken as independent; None where no interval is known."""
        return self._lost(self.deployments[first], self.deployments[second])

    def _lost(self, base: Deployment, one: Deployment) -> Interval | None:
        metric = self._subject.metric
        if metric not in _SHARES or metric not in one.accuracies or metric not in base.accuracies:
            return None
        if not base.accuracy_items or not one.accuracy_items:
            return None
        return newcombe(base.accuracies[metric], base.accuracy_items, one.accuracies[metric], one.accuracy_items)

    def contrast(self, first: str, second: str) -> Contrast:
        """Compare two deployments; KeyError where one is not there."""
        ratio = self._resampled.ratio(first, second)
        if self._pairs is None:
            raise KeyError(second)
        paper = self._need.tests == "paper"
        return Contrast(
            first=first,
            second=second,
            ratio=ratio,
            verdict=compare_ratio(ratio, self._need.margin_frac),
            p=self._pairs.pair(first, second).p,
            delta=cliffs_delta(self._latencies[first], self._latencies[second]),
            accuracy=None if paper else self._mcnemar(first, second),
            accuracy_p=self._wilcoxon(first, second) if paper else None,
        )

    def _mcnemar(self, first: str, second: str) -> McNemar | None:
        judged = self._evidence.judged
        one = judged.get(self.deployments[first].key)
        other = judged.get(self.deployments[second].key)
        if one is None or other is None:
            return None
        _, at, other_at = np.intersect1d(one.items, other.items, return_indices=True)
        return mcnemar(one.right[at], other.right[other_at]) if len(at) else None

    def _wilcoxon(self, first: str, second: str) -> float | None:
        """Over every subject, placement and metric that both operators have, as the published study paired them."""
        one, other = self.deployments[first].name, self.deployments[second].name
        pairs = list(_accuracy_pairs(self._evidence.deployments, one, other))
        if one == other or not pairs:
            return None
        table = np.array(pairs)
        return wilcoxon_p(table[:, 0], table[:, 1])


def _accuracy_pairs(deployments: Sequence[Deployment], one: str, other: str) -> list[tuple[float, float]]:
    first = {(d.subject, d.placement): d.accuracies for d in deployments if d.name == one}
    second = {(d.subject, d.placement): d.accuracies for d in deployments if d.name == other}
    return [
        (value, second[place][metric])
        for place, accuracies in first.items()
        for metric, value in accuracies.items()
        if metric in second.get(place, {})
    ]
