"""How it was measured: what the testbed was asked for and gave, on which machine, under which reservations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tierwise._units import format_bytes, format_frac, format_rate, format_seconds
from tierwise.measure import Environment
from tierwise.report._table import Cell, Column, Table, named
from tierwise.study import SessionData, StudyData

__all__ = ["environment_table", "links_table", "means", "sessions_table", "tiers_table"]

_NONE = Cell("not measured", soft=True)
_MEANS = {
    "netem": "the kernel's netem",
    "tun": "a TUN relay",
    "proxy": "a TCP proxy",
    "real": "real links",
    "duty": "a calibrated duty cycle",
    "cgroup-v1": "control groups (v1)",
    "cgroup-v2": "control groups (v2)",
    "whole": "no limit needed",
}


def means(data: StudyData, key: str) -> str:
    """What links (``link_means``) or CPU limits (``limiter``) were emulated by, in words; empty where nothing says."""
    names = dict.fromkeys(str(one.calibration[key]) for one in data.sessions if one.calibration.get(key))
    return " and ".join(_MEANS.get(name, name) for name in names)


def links_table(data: StudyData) -> Table:
    """Asked and measured goodput and round trip of each link in each session; loss where some was asked for."""
    every = [(session, link) for session in data.sessions for link in session.calibration.get("links", ())]
    lossy = any(link.get("loss_frac") for _, link in every)
    columns = (
        Column("Link"),
        Column("Session", numeric=True),
        Column("By"),
        Column("Up", numeric=True, unit="measured, asked"),
        Column("Down", numeric=True, unit="measured, asked"),
        Column("Round trip", numeric=True, unit="measured, asked"),
        *((Column("Loss", numeric=True, unit="measured, asked"),) if lossy else ()),
        Column("Farthest off", numeric=True, unit="10 % allowed"),
    )
    rows = tuple(
        (
            Cell(f"{link.get('lower', '?')}\u00a0→\u00a0{link.get('upper', '?')}"),
            _session(session),
            Cell(str(link.get("means", ""))),
            _against(link, "up_bps", "asked_up_bps", format_rate),
            _against(link, "down_bps", "asked_down_bps", format_rate),
            _against(link, "rtt_s", "asked_rtt_s", format_seconds),
            *((_against(link, "measured_loss_frac", "loss_frac", format_frac),) if lossy else ()),
            _off(link),
        )
        for session, link in every
    )
    return Table(caption="Links, asked and measured before each session", columns=columns, rows=rows)


def tiers_table(data: StudyData) -> Table:
    """Asked and measured slowdown of each tier in each session."""
    columns = (
        Column("Tier"),
        Column("Session", numeric=True),
        Column("CPUs", numeric=True, unit="after scaling"),
        Column("Limited by"),
        Column("Slowdown", numeric=True, unit="asked: wall / CPU time"),
        Column("Short work", numeric=True, unit="1 to 2 ms"),
        Column("Long work", numeric=True, unit="about 30 ms"),
        Column("Memory limit", numeric=True),
        Column("Farthest off", numeric=True, unit="10 % allowed"),
    )
    rows = tuple(
        (
            Cell(str(tier.get("tier", "?")), note=str(tier["address"]) if tier.get("address") else ""),
            _session(session),
            _cpus(tier),
            Cell(str(tier.get("cpu_means", ""))),
            _slowdown(tier, "asked_slowdown"),
            _slowdown(tier, "short_slowdown"),
            _slowdown(tier, "long_slowdown"),
            _memory(tier),
            _off(tier),
        )
        for session in data.sessions
        for tier in session.calibration.get("tiers", ())
    )
    return Table(caption="Tiers, asked and measured before each session", columns=columns, rows=rows)


def sessions_table(data: StudyData) -> Table:
    """What each process restart saw of the machine and of its own warm-up."""
    columns = (
        Column("Session", numeric=True),
        Column("Began", unit="UTC"),
        Column("Load", numeric=True, unit="runnable, 1 min"),
        Column("Throttled", numeric=True, unit="by quotas above"),
        Column("Warm-up settled", numeric=True, unit="strategies"),
        Column("State"),
    )
    rows = tuple(
        (
            _session(session),
            Cell(_moment(session.environment.taken_at).replace(" ", "\u00a0")),
            Cell(f"{session.environment.load_1min:.2f}"),
            _throttled(session),
            Cell(f"{sum(one.settled for one in session.warmups)} of {len(session.warmups)}"),
            Cell("ended" if session.environment_after else "interrupted", soft=session.environment_after is not None),
        )
        for session in data.sessions
    )
    return Table(caption="Sessions: process restarts, the replicates of the measurement", columns=columns, rows=rows)


def environment_table(environment: Environment) -> Table:
    """The machine and the software."""
    quota = "none" if environment.quota_cpus is None else f"{environment.quota_cpus:g}"
    memory = f"{format_bytes(environment.memory_bytes)}, {format_bytes(environment.memory_available_bytes)} free"
    return named(
        "Environment of the first session",
        [
            ("Processor", environment.cpu_model),
            ("Instruction set", f"{environment.isa}: {' '.join(environment.flags) or 'nothing of interest'}"),
            (
                "CPUs",
                f"{environment.usable_cpus:g} usable ({environment.host_cpus} in the machine, "
                f"{environment.affinity_cpus} by affinity, quota {quota})",
            ),
            ("Frequency governor", environment.governor or "not told by the machine"),
            ("Memory", memory if environment.memory_bytes else ""),
            ("System", environment.platform),
            ("Software", ", ".join(f"{name} {version}" for name, version in sorted(environment.versions.items()))),
            ("Commit", environment.commit or "not run from a checkout"),
        ],
    )


def _session(session: SessionData) -> Cell:
    again = f"attempt {session.attempt + 1}" if session.attempt else ""
    return Cell(str(session.number + 1), note=again, key=float(session.number))


def _moment(iso: str) -> str:
    return iso.removesuffix("+00:00").replace("T", " ")


def _throttled(session: SessionData) -> Cell:
    before, after = session.environment.throttling, session.environment_after and session.environment_after.throttling
    if before is None or not after:
        return Cell("not counted", soft=True)
    return Cell(format_seconds(max(0.0, after.throttled_s - before.throttled_s)))


def _against(entry: Mapping[str, Any], measured: str, asked: str, form: Any) -> Cell:
    wanted = form(entry[asked]) if entry.get(asked) is not None else "?"
    if entry.get(measured) is None:
        return Cell("–", note=f"asked {wanted}", soft=True)  # noqa: RUF001
    return Cell(form(entry[measured]), note=f"asked {wanted}", key=float(entry[measured]))


def _cpus(tier: Mapping[str, Any]) -> Cell:
    threads = tier.get("threads")
    note = "" if threads is None else "1 thread" if threads == 1 else f"{threads} threads"
    return Cell(f"{tier.get('asked_cpus', 0.0):.3g}", note=note)


def _slowdown(tier: Mapping[str, Any], key: str) -> Cell:
    return _NONE if tier.get(key) is None else Cell(f"{tier[key]:.3g}×")  # noqa: RUF001 - the times sign


def _memory(tier: Mapping[str, Any]) -> Cell:
    if not tier.get("memory_bytes"):
        return Cell("–", soft=True)  # noqa: RUF001
    by = str(tier.get("memory_means", ""))
    return Cell(format_bytes(tier["memory_bytes"]), note="not enforced" if by == "none" else by)


def _off(entry: Mapping[str, Any]) -> Cell:
    off = entry.get("off_frac")
    return _NONE if off is None else Cell(format_frac(off), key=float(off))
