"""The head of the page: what was studied, on what, when, and with which reservations."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tierwise._units import format_bytes, format_frac, format_rate, format_seconds
from tierwise.measure import MIN_P99_SAMPLES, SETTLED_FRAC, Offline, Profile, Scenario, Server, SingleStream
from tierwise.report._circumstances import means
from tierwise.report._rows import MAX_ERROR_FRAC, DecisionRow
from tierwise.study import StudyData

_SETTLED = f"{100 * SETTLED_FRAC:g} %"

__all__ = ["compared", "facts", "method", "reservations", "title"]


def title(data: StudyData) -> str:
    """The page's heading."""
    count, tiers = len(data.strategies), len(data.topology.tiers)
    deployments = "one deployment" if count == 1 else f"{count} deployments"
    return f"{deployments} of {data.task_name} over {'one tier' if tiers == 1 else f'{tiers} tiers'}"


def facts(data: StudyData) -> list[tuple[str, str]]:
    """What was studied, on what, when."""
    warm = sum(cell.requests for cell in data.cells)
    errors = sum(cell.errors for cell in data.cells)
    failed = f", {errors} failed" if errors else ", none failed"
    return [
        ("Task", f"{data.task_name}{_subject(data)}"),
        ("Topology", f"{data.topology.name}: {_tiers(data)}"),
        ("Load", f"{_scenario(data)}, {_profile(data)}"),
        ("Requests", f"{warm:,}{failed if warm else ''}; {data.load_items} different inputs from the validation split"),
        ("Accuracy", f"{data.metric} on {data.test_items:,} items of the test split, which nothing else has seen"),
        ("Measured", _span(data)),
    ]


def reservations(data: StudyData, rows: Sequence[DecisionRow]) -> list[tuple[str, str]]:
    """What a reader must know before trusting a figure: a key word and a sentence each."""
    said: list[tuple[str, str]] = []
    if not data.complete:
        said.append(("Incomplete", "The study has not measured all that was planned; these are the records so far."))
    links = means(data, "link_means")
    emulated = [tier for tier in data.topology.tiers if tier.address is None]
    if links and data.topology.links:
        said.append(("Emulated links", f"Rates and delays are those of {links}, verified before each session."))
    if emulated:
        limiter = means(data, "limiter")
        by = f", limited by {limiter}" if limiter else ""
        said.append(("Emulated tiers", f"{_names(emulated)} are processes on one machine{by}. {_scaling(data)}"))
    if any(one.predicted for one in data.strategies):
        said.append(("Modelled", "Figures marked so come from the cost model that chose the cuts, not from measuring."))
    said.append(_energy(data, rows))
    unsettled = sum(not one.settled for session in data.sessions for one in session.warmups)
    if unsettled:
        said.append(
            ("Warm-up", f"{unsettled} warm-ups ended by their cap before the median had settled within {_SETTLED}.")
        )
    said += _differences(data)
    if rows and all(row.p99 is None for row in rows):
        said.append(("No p99", f"It needs {MIN_P99_SAMPLES} answered requests of a strategy; no strategy has so many."))
    return said


def _energy(data: StudyData, rows: Sequence[DecisionRow]) -> tuple[str, str]:
    kinds = {row.energy.kind for row in rows if row.energy}
    if not kinds:
        return ("Not measured", "Energy. Every figure without a mark was measured.")
    if "modelled" not in kinds:
        return ("Energy", f"Measured by {' and '.join(sorted({row.energy.source for row in rows if row.energy}))}.")
    powers = "; ".join(f"{tier.name}: {tier.power.source}" for tier in data.topology.tiers if tier.power)
    return (
        "Modelled energy",
        "Joules marked so were not measured: they follow from stage times, bytes and assumed powers of the tiers asked "
        f"for ({powers}). Every figure without a mark was measured.",
    )


def method(data: StudyData) -> list[str]:
    """How it was measured, paragraph by paragraph."""
    return [
        _order(data.campaign.scenario),
        "Latency runs from the client on the device to its answer, through real node processes and the real protocol. "
        "Stages are timed by the nodes themselves; what they do not account for is shown as “other”. Means of stages "
        "add up to the mean latency, which lies above the median where there are slow outliers.",
        f"Each strategy is warmed up until the medians of two successive windows agree within {_SETTLED}, or a cap is "
        "reached. Cold start (session creation and first request) is a figure of its own and never enters the warm "
        "latencies.",
        "Intervals of percentiles are distribution-free order-statistic intervals at 95 %. They take requests as "
        "independent; the medians of the process starts show how far that holds. Accuracy has a 95 % Wilson interval.",
        *compared(),
        "On the Pareto front stand the strategies than which none is both at least as fast at p50 and at least as "
        f"accurate, and better in one. A strategy that failed in more than {format_frac(MAX_ERROR_FRAC)} of its "
        "requests is listed but not ranked. “Loses no accuracy” compares with the identity variant on the same test "
        "items, without any tolerance.",
    ]


def compared() -> list[str]:
    """How deployments are compared with each other and recommended."""
    return [
        "Deployments are compared on blocks: requests for the same input in the same round. Friedman's test asks "
        "whether any differs; pairs follow by Conover-Friedman with Holm's adjustment. Where blocks are not known it "
        "is Kruskal-Wallis with Conover's pairs, also adjusted by Holm. How large a difference is, is told by the "
        "ratio of medians with a 95 % BCa bootstrap interval that resamples whole blocks (single requests where "
        "there are none), and by Cliff's delta (negligible below 0.147, small below 0.33, medium below 0.474, "
        "else large). “No difference” is claimed only where the whole interval of the ratio lies within the margin.",
        "A recommendation is the smallest objective among what fits; of those tied with it the one that loses least "
        "accuracy is taken, then the one with least training. What other links would change is computed from the bytes "
        "of each request and the links' measured figures: only the difference that this model sees is added to a "
        "measured latency.",
    ]


def _order(scenario: Scenario) -> str:
    match scenario:
        case SingleStream():
            return (
                "Strategies are interleaved in randomised complete blocks: for each input of each round all strategies "
                "answer it, one request at a time, in random order. What drifts then drifts for all alike, and "
                "differences can be taken pair by pair."
            )
        case Server(rate_per_s=rate):
            return (
                f"Requests arrive as a Poisson process at {rate:g} per second; latency counts from the scheduled "
                "arrival, so that a system that falls behind shows it. Strategies take turns in random order."
            )
        case Offline():
            return "All requests of a run are there at once; strategies take turns in random order."


def _subject(data: StudyData) -> str:
    subject = getattr(data.campaign.task, "subject", None)
    if subject is None:
        return ""
    fields = msgspec.to_builtins(subject)
    family = fields.pop("family", "")
    return f", {family} ({', '.join(f'{key} {value}' for key, value in fields.items())})"


def _tiers(data: StudyData) -> str:
    parts = []
    for index, tier in enumerate(data.topology.tiers):
        parts.append(f"{tier.name} {tier.cpus:g} CPU {format_bytes(tier.memory_bytes)}")
        if index < len(data.topology.links):
            link = data.topology.links[index]
            rate = format_rate(link.up_bps)
            if link.down_bps != link.up_bps:
                rate = f"{rate} up, {format_rate(link.down_bps)} down"
            parts.append(f"– {rate}, RTT {format_seconds(link.rtt_s)} –")  # noqa: RUF001 - a drawn line
    return " ".join(parts)


def _scenario(data: StudyData) -> str:
    match data.campaign.scenario:
        case SingleStream():
            return "single stream"
        case Server(rate_per_s=rate):
            return f"server, {rate:g} arrivals per second"
        case Offline():
            return "offline"


def _profile(data: StudyData) -> str:
    asked = data.campaign.profile
    name = "own profile" if isinstance(asked, Profile) else f"profile {asked}"
    sessions = len({session.number for session in data.sessions})
    return f"{name}, {'one process start' if sessions == 1 else f'{sessions} process starts'}"


def _span(data: StudyData) -> str:
    if not data.sessions:
        return "nothing yet"
    taken = [session.environment.taken_at for session in data.sessions]
    taken += [session.environment_after.taken_at for session in data.sessions if session.environment_after]
    first, last = (moment.removesuffix("+00:00").replace("T", " ") for moment in (min(taken), max(taken)))
    until = last.partition(" ")[2] if first[:10] == last[:10] else last
    return f"{first} to {until} UTC, Tierwise {data.tierwise_version}"


def _names(tiers: Sequence[object]) -> str:
    names = [str(getattr(tier, "name", "")) for tier in tiers]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _scaling(data: StudyData) -> str:
    scaling = data.scaling
    if scaling.factor >= 1:
        return "They have the CPUs that were asked for."
    times = 1 / scaling.factor
    factor = f"1/{times:.0f}" if abs(times - round(times)) < 0.01 * times else f"{scaling.factor:.3g}"
    return (
        f"CPUs and memory are scaled down to {factor} of what was asked: the largest tier wants "
        f"{scaling.wanted_cpus:g} CPUs, the machine gives {scaling.machine_cpus:g}. Links are not scaled."
    )


def _differences(data: StudyData) -> list[tuple[str, str]]:
    """Sessions that ran on different machines, software or commits cannot be pooled without a word."""
    if len(data.sessions) < 2:
        return []
    told = []
    for what, values in (
        ("processors", {session.environment.cpu_model for session in data.sessions}),
        ("commits", {session.environment.commit for session in data.sessions}),
        ("package versions", {tuple(sorted(session.environment.versions.items())) for session in data.sessions}),
    ):
        if len(values) > 1:
            told.append(what)
    return [("Mixed", f"The sessions did not all run on the same {' and '.join(told)}.")] if told else []
