"""How fast tiers compute, from running a model here: what the cost model needs to choose cuts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy.typing as npt

from tierwise.artifact import Artifact
from tierwise.planner import Cost, Part, predict_parts
from tierwise.runtime import Executor, tensors_at
from tierwise.topology import Tier, Topology

__all__ = ["PAUSE_S", "Speeds", "measure_speeds", "predict"]

PAUSE_S = 0.05
"""Pause before each run that is timed, about what lies between two requests over a slow link."""

_RUNS = 12


@final
@dataclass(frozen=True)
class Speeds:
    """Seconds per multiply-accumulate of one model on each tier, worked out from runs on this machine.

    Attributes:
        s_per_mac: By tier.
        per_message_s: What a node takes for one message beside computing (`measure_message_s`).
    """

    s_per_mac: Mapping[str, float]
    per_message_s: float = 0.0


def measure_speeds(
    artifact: Artifact, tensors: Mapping[str, npt.NDArray[Any]], topology: Topology, per_message_s: float = 0.0
) -> Speeds:
    """Run a model with the threads each tier will use, and scale to the tier's CPUs.

    A tier gets as many threads as it has whole CPUs, one at least; with c CPUs and t threads it takes t / c times as
    long as t free cores. A remote tier is taken to be as fast as this machine per CPU.

    Runs are apart from each other, as requests are: one right after the other finds weights in the cache and the core
    awake, and may take half the time.

    Args:
        artifact: The uncut model.
        tensors: Model inputs of one item.
        topology: The topology fitted to this machine.
        per_message_s: See `Speeds`.
    """
    threads = {tier.name: _threads(tier) for tier in topology.tiers}
    # More threads than this machine has cores would measure their quarrel.
    usable = {count: _median_s(artifact, tensors, count) for count in set(threads.values())}
    macs = max(1, sum(segment.macs for segment in artifact.manifest.segments))
    return Speeds(
        {
            tier.name: usable[threads[tier.name]] * max(1.0, threads[tier.name] / tier.cpus) / macs
            for tier in topology.tiers
        },
        per_message_s,
    )


def _threads(tier: Tier) -> int:
    from tierwise.measure import usable_cpus

    return max(1, math.floor(min(tier.cpus, usable_cpus())))


def _median_s(artifact: Artifact, tensors: Mapping[str, npt.NDArray[Any]], threads: int) -> float:
    executor = Executor(artifact, threads=threads)
    executor.run(tensors)
    took_s: list[float] = []
    for _ in range(_RUNS):
        time.sleep(PAUSE_S)
        start_s = time.perf_counter()
        executor.run(tensors)
        took_s.append(time.perf_counter() - start_s)
    return statistics.median(took_s)


def predict(
    artifact: Artifact, segments: tuple[str, ...], topology: Topology, speeds: Speeds, input_bytes: int
) -> Cost:
    """The predicted cost of one request; of a model with exits the expectation, by their share of validation items.

    Args:
        artifact: What is deployed.
        segments: Tier of each of its segments; the last tier runs all that are left.
        topology: The topology the requests pass.
        speeds: Of the uncut model.
        input_bytes: Size of the request as the device holds it.
    """
    manifest = artifact.manifest
    parts, reach, below = [], 1.0, 0
    for i, segment in enumerate(manifest.segments):
        tier = segments[min(i, len(segments) - 1)]
        height = topology.index(tier)
        parts.append(
            Part(
                macs=segment.macs,
                s_per_mac=speeds.s_per_mac[tier],
                received_bytes=_crossing(artifact, i) if i else input_bytes,
                links=topology.links[below:height],
                reach_frac=reach,
            )
        )
        below = height
        if segment.exit is not None:
            reach = max(0.0, reach - (segment.exit.left_frac or 0.0))
    answer_bytes = sum(spec.nbytes() for spec in manifest.outputs)
    return predict_parts(parts, answer_bytes=answer_bytes, per_message_s=speeds.per_message_s)


def _crossing(artifact: Artifact, border: int) -> int:
    """Bytes that go on to segment ``border`` and those behind it: whatever they need from before."""
    boundary = artifact.manifest.segments[border - 1].boundary
    coded = {} if boundary is None else {boundary.tensor: round(boundary.rates[-1].item_bytes)}
    return sum(coded.get(spec.name, spec.nbytes()) for spec in tensors_at(artifact, border))
