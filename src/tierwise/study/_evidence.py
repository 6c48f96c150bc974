"""Evidence for a decision, from a study's records."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence, Set

import numpy as np

from tierwise._errors import StoreError
from tierwise.artifact import ImageInput, Manifest, TextInput
from tierwise.measure import Energy, Record, Samples, modelled_energy
from tierwise.planner import Deployment, Evidence, Hop, Judged, LinkFigures, Subject, SubjectKind
from tierwise.study._results import Strategy, StudyData

__all__ = ["evidence_of"]

_LINK_STAGES = frozenset({"uplink", "downlink", "network"})
_WAITING = _LINK_STAGES | {"queue", "local"}


def evidence_of(data: StudyData) -> Evidence:
    """What a study has found so far, as the planner takes it. Cold and failed requests do not count.

    Raises:
        StoreError: No strategy has an answered request yet.
    """
    answered: dict[str, list[Record]] = {strategy.id: [] for strategy in data.strategies}
    sent = dict.fromkeys(answered, 0)
    for record in data.records:
        if not record.cold:
            sent[record.strategy] += 1
            if record.error is None:
                answered[record.strategy].append(record)
    measured = [strategy for strategy in data.strategies if answered[strategy.id]]
    if not measured:
        raise StoreError(
            "a decision needs measured strategies",
            where=data.directory,
            fix="Run the study on: the same `tierwise study run` goes on where it was stopped",
        )
    subject = _subject(data, measured)
    links = _links(data)
    deployments, samples, judged = [], {}, {}
    blocks = _Blocks()
    input_bytes = _input_bytes(measured, answered)
    for strategy in measured:
        own = answered[strategy.id]
        deployment = _deployment(data, subject, strategy, own, sent[strategy.id], input_bytes)
        deployments.append(deployment)
        samples[deployment.key] = Samples(
            np.array([record.latency_s for record in own]), np.array([blocks.id(record) for record in own])
        )
        answers = _judged(data, strategy)
        if answers is not None:
            judged[deployment.key] = answers
    return Evidence(
        name=data.campaign.name,
        source="study",
        subjects=(subject,),
        deployments=tuple(deployments),
        links=links,
        samples=samples,
        judged=judged,
        notes=(
            *_notes(data, [strategy.id for strategy in data.strategies if not answered[strategy.id]]),
            *_mixed({one.energy.kind for one in deployments if one.energy is not None}),
        ),
    )


class _Blocks:
    """Numbers for (session, round, query)."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int, int], int] = {}

    def id(self, record: Record) -> int:
        return self._ids.setdefault((record.session, record.round, record.query), len(self._ids))


def _notes(data: StudyData, silent: Sequence[str]) -> tuple[str, ...]:
    notes = [f"left out, since no request was answered: {', '.join(silent)}"] if silent else []
    if not data.complete:
        notes.append("the study is not complete: intervals are wider than they will be")
    kept = set() if data.answers is None else set(data.answers.predicted)
    lacking = {strategy.variant for strategy in data.strategies} - kept
    if lacking:
        notes.append(
            f"answers to the test items were not kept for {len(lacking)} of {len(data.variants)} variants (examined "
            "by an earlier release): their accuracies are compared as independent figures; a new study keeps them"
        )
    if data.scaling.factor < 1:
        notes.append(
            f"emulated tiers had {data.scaling.factor:.2g} of their CPUs: absolute times are those of the scaled "
            "tiers, and so is the energy modelled from them"
        )
    return tuple(notes)


def _mixed(kinds: Set[str]) -> Sequence[str]:
    if len(kinds) < 2:
        return ()
    return (
        "energy was measured for some deployments and is modelled for others: the two kinds cannot be ranked against "
        "each other",
    )


def _subject(data: StudyData, measured: Sequence[Strategy]) -> Subject:
    manifest = data.variants[measured[0].variant].manifest
    names = [strategy.name for strategy in data.strategies]
    baseline = next((strategy.name for strategy in data.strategies if strategy.chain == "identity"), "")
    return Subject(
        name=data.task_name,
        kind=_kind(manifest),
        metric=data.metric,
        baseline=baseline if baseline in names else "",
        paired=True,
    )


def _kind(manifest: Manifest) -> SubjectKind:
    if isinstance(manifest.input, ImageInput):
        return "image"
    return "text" if isinstance(manifest.input, TextInput) else "tensor"


def _links(data: StudyData) -> tuple[LinkFigures, ...]:
    """Medians of the sessions' calibrations; the link as asked where none was taken."""
    calibrated: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for session in data.sessions:
        for link in session.calibration.get("links", ()):
            calibrated.setdefault((link["lower"], link["upper"]), []).append(link)
    found = []
    for link in data.topology.links:
        seen = calibrated.get((link.lower, link.upper), [])
        figures = {
            name: [value for one in seen if isinstance(value := one.get(name), float)]
            for name in ("up_bps", "down_bps", "rtt_s")
        }
        whole = all(figures.values())
        found.append(
            LinkFigures(
                lower=link.lower,
                upper=link.upper,
                up_bps=statistics.median(figures["up_bps"]) if whole else link.up_bps,
                down_bps=statistics.median(figures["down_bps"]) if whole else link.down_bps,
                rtt_s=statistics.median(figures["rtt_s"]) if whole else link.rtt_s,
                source="calibrated" if whole else "asked",
            )
        )
    return tuple(found)


def _input_bytes(measured: Sequence[Strategy], answered: Mapping[str, Sequence[Record]]) -> float | None:
    """What a request is when it goes up whole: from the strategies that compute on one upper tier."""
    for strategy in measured:
        if len(strategy.segments) == 1 and len(strategy.path) > 1:
            return statistics.median(record.bytes_up for record in answered[strategy.id]) / (len(strategy.path) - 1)
    return None


def _deployment(
    data: StudyData, subject: Subject, strategy: Strategy, own: Sequence[Record], sent: int, input_bytes: float | None
) -> Deployment:
    variant = data.variants[strategy.variant]
    measured = [one for one in variant.manifest.accuracy if one.split == "test"]
    return Deployment(
        subject=subject.name,
        id=strategy.id,
        name=strategy.name,
        placement=strategy.placement,
        tiers=strategy.path,
        accuracies={one.metric: one.value for one in measured},
        accuracy_items=measured[0].items if measured else None,
        hops=_hops(strategy, variant.manifest, own, input_bytes),
        artifact_bytes=variant.artifact_bytes,
        training_s=variant.manifest.provenance.training_s,
        energy=_energy(data, strategy, own),
        requests=sent,
        errors=sent - len(own),
    )


def _hops(strategy: Strategy, manifest: Manifest, own: Sequence[Record], input_bytes: float | None) -> tuple[Hop, ...]:
    """Bytes per link. Records hold sums over links; the input's part is known, boundaries share the rest by size."""
    up = statistics.median(record.bytes_up for record in own)
    down = statistics.median(record.bytes_down for record in own)
    links = list(zip(strategy.path, strategy.path[1:], strict=False))
    # Segments that ran below a link: none means that the input itself crosses it.
    before = [
        sum(strategy.path.index(tier) <= strategy.path.index(lower) for tier in strategy.segments) for lower, _ in links
    ]
    borders = [sum(tensor.nbytes() for tensor in manifest.segments[i - 1].outputs) if i else 0 for i in before]
    whole = before.count(0)
    inputs = min(up, (input_bytes or 0.0) * whole) if any(borders) else up
    hops = []
    for (lower, upper), segments, border in zip(links, before, borders, strict=True):
        share = inputs / whole if segments == 0 else (up - inputs) * border / sum(borders)
        hops.append(
            Hop(
                lower=lower,
                upper=upper,
                up_bytes=share,
                down_bytes=down / len(links),
                carries="boundary" if segments else "input",
                measured_s=_link_s(own, lower),
            )
        )
    return tuple(hops)


def _link_s(own: Sequence[Record], lower: str) -> float | None:
    times = [
        sum(time.seconds for time in record.stages if time.tier == lower and time.stage in _LINK_STAGES)
        for record in own
    ]
    middle = statistics.median(times)
    return middle if middle > 0 else None


def _judged(data: StudyData, strategy: Strategy) -> Judged | None:
    """What the strategy's variant answered to the test items; None where that was not kept."""
    if data.answers is None or strategy.variant not in data.answers.predicted:
        return None
    return Judged(strategy.variant, data.answers.predicted[strategy.variant], data.answers.labels)


def _energy(data: StudyData, strategy: Strategy, own: Sequence[Record]) -> Energy | None:
    """Mean of what meters counted for the requests, where they did for every one of them; else the power model's."""
    return _measured(data, strategy, own) or _modelled(data, strategy, own)


def _measured(data: StudyData, strategy: Strategy, own: Sequence[Record]) -> Energy | None:
    sources = sorted({session.rest.source for session in data.sessions if session.rest is not None})
    joules = [record.energy_j for record in own if record.energy_j is not None]
    above = [record.above_idle_j for record in own if record.above_idle_j is not None]
    # The meters are this machine's: they know nothing of a tier that is a machine of its own.
    here = all(data.topology.tier(tier).address is None for tier in strategy.path)
    if not here or not sources or len(joules) < len(own):
        return None
    return Energy(
        joules=statistics.mean(joules),
        kind="measured",
        source=f"{'; '.join(sources)}; of the one machine that runs all tiers and the client, its idle power included",
        above_idle_j=statistics.mean(above),
    )


def _modelled(data: StudyData, strategy: Strategy, own: Sequence[Record]) -> Energy | None:
    power = {tier.name: tier.power for tier in data.topology.tiers if tier.power is not None}
    if not set(strategy.path) <= set(power):
        return None
    busy = dict.fromkeys(strategy.path, 0.0)
    for record in own:
        for time in record.stages:
            if time.tier in busy and time.stage not in _WAITING:
                busy[time.tier] += time.seconds / len(own)
    crossed = statistics.mean(record.bytes_up + record.bytes_down for record in own)
    links = len(strategy.path) - 1
    return modelled_energy(
        statistics.mean(record.latency_s for record in own),
        busy,
        dict.fromkeys(strategy.path[:-1], crossed / links if links else 0.0),
        power,
    )
