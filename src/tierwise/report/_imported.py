"""The page of evidence alone: a study that others measured has no stages, no calibration and no artifacts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tierwise._units import format_rate, format_seconds
from tierwise.measure import MIN_P99_SAMPLES, summarise
from tierwise.planner import Deployment, Evidence, Subject
from tierwise.report._choices import WITHIN, Choices, choose
from tierwise.report._effects import p_text
from tierwise.report._facts import compared
from tierwise.report._part import part
from tierwise.report._rows import DecisionRow, Share, ranked, wilson
from tierwise.report._verdict import Sentence, Words
from tierwise.report._view import View, contents

__all__ = ["imported_rows", "imported_view"]

_SHARES = frozenset({"accuracy", "top-1", "top-5", "top1", "top5"})


def imported_view(evidence: Evidence) -> View:
    """Compute the page of evidence, subject by subject."""
    several = len(evidence.subjects) > 1
    rows = [imported_rows(evidence, subject) for subject in evidence.subjects]
    choices = [choose(evidence, subject) for subject in evidence.subjects]
    parts = tuple(
        part(
            rows[i],
            [one.id for one in evidence.of(subject)],
            {one.id: np.sort(evidence.samples[one.key].latency_s).tolist() for one in evidence.of(subject)},
            evidence,
            choices[i],
            subject=subject if several else None,
            suffix=f"-{i + 1}" if several else "",
        )
        for i, subject in enumerate(evidence.subjects)
    )
    said = tuple(_sentence(subject, found) for subject, found in zip(evidence.subjects, choices, strict=True))
    count = sum(len(own) for own in rows)
    names = ", ".join(subject.name for subject in evidence.subjects)
    return View(
        name=evidence.name,
        title=f"{'one deployment' if count == 1 else f'{count} deployments'} of {names}",
        summary=" ".join("".join(piece.text for piece in sentence) for sentence in said),
        verdict=said,
        best=(),
        accuracy_known=any(row.accuracy for own in rows for row in own),
        facts=_facts(evidence),
        reservations=_reservations(evidence, [row for own in rows for row in own]),
        contents=contents(parts, None),
        parts=parts,
        failures=[],
        method=["The requests were not measured here: the page says what the imported files hold.", *compared()],
        record_count=sum(len(one.latency_s) for one in evidence.samples.values()),
    )


def imported_rows(evidence: Evidence, subject: Subject) -> tuple[DecisionRow, ...]:
    """Decision rows of one subject, the fastest first."""
    return ranked([_row(evidence, subject, one) for one in evidence.of(subject)])


def _row(evidence: Evidence, subject: Subject, one: Deployment) -> DecisionRow:
    seen = summarise(evidence.samples[one.key].latency_s)
    value, items = one.accuracies.get(subject.metric), one.accuracy_items or 0
    ends = wilson(value, items) if value is not None and items and subject.metric in _SHARES else (None, None)
    hops = one.hops
    return DecisionRow(
        strategy=one.id,
        chain=one.name,
        placement=one.placement,
        reach=one.tiers[-1],
        requests=one.requests,
        errors=one.errors,
        p50=seen.p50,
        p90=seen.p90,
        p99=seen.p99,
        mean_s=seen.mean_s,
        accuracy=None if value is None else Share(value, *ends),
        accuracy_items=items,
        metric="" if value is None else subject.metric,
        loss_frac=evidence.accuracy_lost(one),
        bytes_up=None if hops is None else sum(hop.up_bytes for hop in hops),
        bytes_down=None if hops is None else sum(hop.down_bytes for hop in hops),
        artifact_bytes=one.artifact_bytes,
        energy=one.energy,
        training_s=one.training_s,
    )


def _sentence(subject: Subject, choices: Choices | None) -> Sentence:
    start = Words(f"{subject.name}: ")
    if choices is None:
        return (start, Words("too little was measured to compare anything."))
    found = choices.thrifty or choices.fastest
    if found.chosen is None:
        return (start, Words(f"{found.why}."))
    median = format_seconds(found.of(found.chosen).median_s)
    budget = f", {WITHIN}" if choices.thrifty is not None else ""
    said = [start, Words("take "), Words(found.chosen, strong=True)]
    said.append(Words(f" ({median} at the median{budget}): {found.why}."))
    if found.runner_up is not None:
        other = found.runner_up
        said += [Words(" The runner-up is "), Words(other.second, strong=True)]
        ratio = 1 / other.ratio.value
        said.append(Words(f", which takes {ratio:.3g} times as long ({p_text(other.p)})."))
    return tuple(said)


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    kinds = "; ".join(
        f"{one.name} ({one.kind if one.kind != 'unknown' else 'kind of input not known'}"
        f"{f', {one.metric}' if one.metric else ''})"
        for one in evidence.subjects
    )
    placements = dict.fromkeys(one.placement.replace("|", " → ") for one in evidence.deployments)
    count = sum(len(one.latency_s) for one in evidence.samples.values())
    said = [
        ("Subjects", kinds),
        ("Placements", ", ".join(placements)),
        ("Requests", f"{count:,}"),
        ("Baseline", ", ".join(dict.fromkeys(one.baseline for one in evidence.subjects if one.baseline)) or "none"),
    ]
    if evidence.links:
        links = "; ".join(
            f"{one.lower} – {one.upper} {format_rate(one.up_bps)}, RTT {format_seconds(one.rtt_s)} ({one.source})"  # noqa: RUF001
            for one in evidence.links
        )
        said.append(("Links", links))
    return said


def _reservations(evidence: Evidence, rows: Sequence[DecisionRow]) -> list[tuple[str, str]]:
    said = []
    if evidence.source == "import":
        text = (
            "Nothing was measured or built by Tierwise: stages, calibration, artifacts and environment are not known."
        )
        said.append(("Imported", text))
    said += [("Note", note[:1].upper() + note[1:] + ".") for note in evidence.notes]
    if not evidence.links:
        said.append(("No links", "Their figures are not known, so what other links would change cannot be said."))
    if not any(row.energy for row in rows):
        said.append(("No energy", "It was neither measured nor can it be modelled without times of each tier."))
    if rows and all(row.p99 is None for row in rows):
        said.append(("No p99", f"It needs {MIN_P99_SAMPLES} answered requests of a strategy; no strategy has so many."))
    return said
