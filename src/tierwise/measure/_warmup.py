"""Warming up until the latency stands still."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import final

import msgspec

from tierwise._clock import Clock
from tierwise._seeds import stream
from tierwise.measure._progress import Advance
from tierwise.measure._record import SystemUnderTest

__all__ = ["SETTLED_FRAC", "WarmUp", "warm_up"]

SETTLED_FRAC = 0.02
"""Two successive windows whose medians differ by less than this end a warm-up."""


@final
class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """How the warm-up of one strategy went.

    Attributes:
        strategy: Its name.
        requests: Requests sent before measuring.
        settled: Whether the medians of two successive windows came within `SETTLED_FRAC`; if not, the cap ended it.
        last_change_frac: Relative difference between the last two windows' medians; None before the second window.
    """

    strategy: str
    requests: int
    settled: bool
    last_change_frac: float | None


def warm_up(
    systems: Mapping[str, SystemUnderTest],
    *,
    samples: int,
    window: int,
    windows: int,
    seed: int,
    session: int,
    clock: Clock,
    advance: Advance = lambda n: None,
) -> tuple[WarmUp, ...]:
    """Send requests until every system's median latency stands still, or the cap is reached.

    The systems take turns in random order, as they do when measured. One that has settled waits for the others; one
    that fails a whole window is given up (its records will say why).

    Args:
        systems: By name.
        samples: Number of loaded inputs; drawn with replacement.
        window: Requests in a window.
        windows: Most windows, 2 at least.
        seed: Root of the streams.
        session: Number of the process restart.
        clock: Times the requests.
        advance: Told 1 for every system that is done.

    Returns:
        One account per system, in their order.
    """
    generator = stream(seed, "warmup", session)
    medians: dict[str, list[float]] = {name: [] for name in systems}
    sent = dict.fromkeys(systems, 0)
    active = list(systems)
    for _ in range(windows):
        latencies: dict[str, list[float]] = {name: [] for name in active}
        for _ in range(window):
            for index in generator.permutation(len(active)):
                name = active[int(index)]
                latency_s = _time(systems[name], int(generator.integers(samples)), clock)
                sent[name] += 1
                if latency_s is not None:
                    latencies[name].append(latency_s)
        for name in tuple(active):
            if latencies[name]:
                medians[name].append(statistics.median(latencies[name]))
            if not latencies[name] or _settled(medians[name]):
                active.remove(name)
                advance(1)
        if not active:
            break
    advance(len(active))
    return tuple(
        WarmUp(
            strategy=name, requests=sent[name], settled=_settled(medians[name]), last_change_frac=_change(medians[name])
        )
        for name in systems
    )


def _time(system: SystemUnderTest, sample: int, clock: Clock) -> float | None:
    start_ns = clock.now_ns()
    try:
        system.issue(sample)
    except Exception:  # a failing system is recorded when it is measured
        return None
    return (clock.now_ns() - start_ns) / 1e9


def _change(medians: list[float]) -> float | None:
    if len(medians) < 2:
        return None
    before, after = medians[-2:]
    return abs(after - before) / before if before > 0 else 0.0


def _settled(medians: list[float]) -> bool:
    change = _change(medians)
    return change is not None and change < SETTLED_FRAC
