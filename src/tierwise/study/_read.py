"""Reading a study: what the report and the planner start from. No torch, no lock: a running study can be read."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from tierwise._errors import StoreError
from tierwise.measure import STAGES, Environment, Record, StageTime, WarmUp, summarise
from tierwise.study._campaign import Campaign
from tierwise.study._plan import Plan
from tierwise.study._results import CellSummary, SessionData, Strategy, StudyData, Variant
from tierwise.study._store import DATABASE, Store
from tierwise.study._stored import StoredSession, StoredTask, StoredVariant
from tierwise.topology import Scaling, Topology

__all__ = ["load_study", "summarise_cell"]


def load_study(directory: Path) -> StudyData:
    """What the study in ``directory`` has found so far.

    Raises:
        StoreError: There is no study, it was not prepared yet, or its database cannot be read.
    """
    with contextlib.closing(Store(directory, write=False)) as store:
        campaign, task = store.fact("campaign", Campaign), store.fact("task", StoredTask)
        topology, fitted = store.fact("topology", Topology), store.fact("fitted", Topology)
        scaling = store.fact("scaling", Scaling)
        if campaign is None or task is None or topology is None or fitted is None or scaling is None:
            raise StoreError(
                "a study must have built its variants before it can be read",
                where=directory / DATABASE,
                fix="Run it on: the same `tierwise study run` goes on where it was stopped",
            )
        strategies = tuple(store.get_all("strategies", Strategy).values())
        variants = store.get_all("variants", StoredVariant)
        # Sessions last: whatever records name a session, it is there.
        records = store.records()
        sessions = tuple(_session(row) for row in store.sessions())
        answers = store.answers()
        toml, version = store.fact("campaign_toml", str), store.fact("tierwise_version", str)
    by_strategy: dict[str, list[Record]] = {strategy.id: [] for strategy in strategies}
    for record in records:
        by_strategy[record.strategy].append(record)
    return StudyData(
        directory=directory,
        campaign=campaign,
        campaign_toml=toml or "",
        topology=topology,
        fitted=fitted,
        scaling=scaling,
        task_name=task.name,
        task_fingerprint=task.fingerprint,
        metric=task.metric,
        test_items=task.test_items,
        load_items=task.load_items,
        strategies=strategies,
        variants={key: _variant(entry, strategies, by_strategy) for key, entry in variants.items()},
        sessions=sessions,
        records=records,
        cells=tuple(summarise_cell(name, own) for name, own in by_strategy.items() if own),
        complete=_complete(campaign, task, strategies, records),
        tierwise_version=version or "",
        answers=answers,
    )


def _session(row: tuple[int, int, str, str | None, str | None]) -> SessionData:
    number, attempt, value, warmups, after = row
    opened = msgspec.json.decode(value, type=StoredSession)
    return SessionData(
        number=number,
        attempt=attempt,
        environment=opened.environment,
        environment_after=None if after is None else msgspec.json.decode(after, type=Environment),
        calibration=opened.calibration,
        warmups=() if warmups is None else msgspec.json.decode(warmups, type=tuple[WarmUp, ...]),
        rest=opened.rest,
    )


def _variant(stored: StoredVariant, strategies: Sequence[Strategy], records: Mapping[str, Sequence[Record]]) -> Variant:
    agreed = [
        record.prediction == stored.local_predictions[record.sample]
        for strategy in strategies
        if strategy.variant == stored.key
        for record in records[strategy.id]
        if record.error is None
    ]
    return Variant(
        key=stored.key,
        manifest=stored.manifest,
        digest=stored.digest,
        directory=stored.directory,
        artifact_bytes=stored.artifact_bytes,
        agreement_frac=sum(agreed) / len(agreed) if agreed else None,
    )


def summarise_cell(strategy: str, records: Sequence[Record]) -> CellSummary:
    """The summary of one strategy's records, cold and warm.

    Args:
        strategy: Its id.
        records: All of them, of one scenario; at least one.
    """
    warm = [record for record in records if not record.cold]
    answered = [record for record in warm if record.error is None]
    cold = [record for record in records if record.cold and record.error is None]
    sessions = sorted({record.session for record in answered})
    judged = [record.correct for record in answered if record.correct is not None]
    return CellSummary(
        strategy=strategy,
        scenario=records[0].scenario,
        requests=len(warm),
        errors=len(warm) - len(answered),
        first_error=next((record.error for record in warm if record.error is not None), None),
        latency=summarise([record.latency_s for record in answered]) if answered else None,
        session_medians_s=tuple(
            statistics.median(record.latency_s for record in answered if record.session == session)
            for session in sessions
        ),
        cold_starts_s=tuple(record.load_s + record.latency_s for record in cold),
        cold_load_s=tuple(record.load_s for record in cold),
        stages=_mean_stages(answered),
        bytes_up=float(np.median([record.bytes_up for record in answered])) if answered else 0.0,
        bytes_down=float(np.median([record.bytes_down for record in answered])) if answered else 0.0,
        correct_frac=sum(judged) / len(judged) if judged else None,
        throughput_per_s=_throughput(answered),
    )


def _mean_stages(records: Sequence[Record]) -> tuple[StageTime, ...]:
    totals: dict[tuple[str, str], float] = {}
    for record in records:
        for time in record.stages:
            totals[time.tier, time.stage] = totals.get((time.tier, time.stage), 0.0) + time.seconds
    known = {stage: position for position, stage in enumerate(STAGES)}
    ordered = sorted(totals, key=lambda entry: known.get(entry[1], len(known)))
    return tuple(StageTime(tier, stage, totals[tier, stage] / len(records)) for tier, stage in ordered)


def _throughput(records: Sequence[Record]) -> float | None:
    """Answered requests over the time the runs lasted, of the scenarios in which requests overlap."""
    if not records or records[0].scenario == "single-stream":
        return None
    lasted_s = 0.0
    for run in {(record.session, record.round) for record in records}:
        own = [record for record in records if (record.session, record.round) == run]
        first_ns = min(record.started_ns for record in own)
        lasted_s += max((record.started_ns - first_ns) / 1e9 + record.latency_s for record in own)
    return len(records) / lasted_s if lasted_s else None


def _complete(campaign: Campaign, task: StoredTask, strategies: Sequence[Strategy], records: Sequence[Record]) -> bool:
    plan = Plan(
        scenario=campaign.scenario,
        profile=campaign.measured(),
        seed=campaign.seed,
        strategies=tuple(strategy.id for strategy in strategies),
        samples=task.load_items,
    )
    for number in range(plan.profile.sessions):
        own = [record for record in records if record.session == number]
        warm = [record for record in own if not record.cold]

        def measured_s(round: int, warm: Sequence[Record] = warm) -> float:
            return sum(record.latency_s for record in warm if record.round < round)

        if not plan.complete(number, {record.key for record in own}, measured_s):
            return False
    return True
