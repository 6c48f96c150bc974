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
    accuracy_difference,
    block,
    bootstrap,
    cliffs_delta,
    compare_ratio,
    f1_difference,
    friedman,
    kruskal_conover,
    mcnemar,
    newcombe,
    wilcoxon_p,
)
from tierwise.planner._evidence import Deployment, Evidence, Judged, Subject
from tierwise.planner._need import Need

__all__ = ["Comparison", "Contrast", "Figures", "Tests"]

_SHARES = frozenset({"accuracy", "top-1", "top-5", "top1", "top5"})
"""Metrics that are shares of items, so that the number of items gives an interval; an F1 score is none."""

_PAIRED = frozenset({"accuracy", "f1"})
"""Metrics that follow from the classes that were answered."""

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
        accuracy_lost: Against the baseline.
        accuracy_lost_interval: Paired over test items where the answers of both are known; else it takes both as
            independent, and is None for metrics that are no shares of items.
        accuracy_paired: Whether that interval is the paired one.
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
    accuracy_paired: bool = False


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
        accuracy: McNemar's test on all items of the test split; None where answers are not known or both deployments
            have the same variant.
        accuracy_difference: First's accuracy less the second's, by the subject's metric (share of right answers or F1
            of class 1); paired bootstrap over test items. None as above, and for other metrics.
        accuracy_p: Wilcoxon over all accuracies of both operators (published tests only).
    """

    first: str
    second: str
    ratio: Interval
    verdict: Verdict
    p: float
    delta: Delta
    accuracy: McNemar | None = None
    accuracy_difference: Interval | None = None
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
        resampled: What the bootstrap of the ratios draws: ``blocks``, or ``requests`` where there are none.
    """

    label: str
    statistic: float
    p: float
    blocks: int | None = None
    dropped: int = 0
    resampled: str = "blocks"


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
        self._differences: dict[tuple[str, str], Interval] = {}
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
        self.tests = Tests(
            label="Friedman, pairs by Conover-Friedman with Holm" if isinstance(found, Friedman) else found.label,
            statistic=found.statistic,
            p=found.p,
            blocks=found.blocks if isinstance(found, Friedman) else None,
            dropped=found.dropped if isinstance(found, Friedman) else 0,
            resampled="blocks" if self._subject.paired else "requests",
        )

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
            accuracy_lost_interval=None if base is None else self._gap(base, one),
            energy=one.energy,
            wire_bytes=one.wire_bytes,
            artifact_bytes=one.artifact_bytes,
            training_s=one.training_s,
            error_frac=one.errors / one.requests if one.requests else 0.0,
            missing="" if enough else f"no p{100 * need.at:g} from {len(samples)} requests, {least} are needed",
            accuracy_paired=base is not None and self._difference(base, one) is not None,
        )

    def accuracy_gap(self, first: str, second: str) -> Interval | None:
        """Accuracy of the first less the second's, by test items where they are known; None: no interval is known."""
        return self._gap(self.deployments[first], self.deployments[second])

    def _gap(self, base: Deployment, one: Deployment) -> Interval | None:
        return self._difference(base, one) or self._independent(base, one)

    def _independent(self, base: Deployment, one: Deployment) -> Interval | None:
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
        one, other = self.deployments[first], self.deployments[second]
        judged = None if paper else self._judged(one, other)
        return Contrast(
            first=first,
            second=second,
            ratio=ratio,
            verdict=compare_ratio(ratio, self._need.margin_frac),
            p=self._pairs.pair(first, second).p,
            delta=cliffs_delta(self._latencies[first], self._latencies[second]),
            accuracy=None if judged is None else mcnemar(judged[0].right, judged[1].right),
            accuracy_difference=None if judged is None else self._difference(one, other),
            accuracy_p=self._wilcoxon(first, second) if paper else None,
        )

    def _judged(self, one: Deployment, other: Deployment) -> tuple[Judged, Judged] | None:
        """What both answered to the test items; None where it is not known, or one variant answered for both."""
        first, second = self._evidence.judged.get(one.key), self._evidence.judged.get(other.key)
        if first is None or second is None or first.variant == second.variant:
            return None
        return (first, second) if np.array_equal(first.labels, second.labels) else None

    def _difference(self, one: Deployment, other: Deployment) -> Interval | None:
        """Accuracy of one less the other's by the subject's metric, paired over test items."""
        judged = self._judged(one, other)
        if judged is None or self._subject.metric not in _PAIRED:
            return None
        key = (judged[0].variant, judged[1].variant)
        if key not in self._differences:
            first, second = judged
            if self._subject.metric == "f1":
                found = f1_difference(first.predicted == 1, second.predicted == 1, first.labels == 1)
            else:
                found = accuracy_difference(first.right, second.right)
            self._differences[key] = found
        return self._differences[key]

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
