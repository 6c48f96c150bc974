"""How load is put on a system: frozen specs, one per scenario, and how much of it is measured."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from tierwise._config import Spec

__all__ = ["Offline", "Profile", "ProfileName", "Scenario", "Server", "SingleStream", "profile"]

Count = Annotated[int, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
ProfileName = Literal["quick", "study", "full"]


class SingleStream(Spec, frozen=True, kw_only=True, tag="single-stream", tag_field="kind"):
    """One request after the other: the next is sent when the last is answered.

    The strategies are interleaved: for each input of each round all of them answer it, in random order, before the next
    input's turn. What drifts (heat, neighbours, caches) then drifts for all alike.

    The figure is the distribution of latency, from sending to the answer; percentiles p50, p90 and, from 459 samples
    on, p99.
    """

    TAG: ClassVar[str] = "single-stream"


class Server(Spec, frozen=True, kw_only=True, tag="server", tag_field="kind"):
    """Requests arrive on their own, as a Poisson process, whether or not the last ones are answered.

    Attributes:
        rate_per_s: Mean arrivals per second.
        queries: Requests of one run; every strategy has one run in each round.
        outstanding: Most requests under way at a time; one more waits for a free place, and its waiting counts.

    The figure is the distribution of latency from the *scheduled* arrival to the answer, so that a system that falls
    behind shows it, and the share of failed requests.
    """

    TAG: ClassVar[str] = "server"

    rate_per_s: Annotated[float, msgspec.Meta(gt=0)]
    queries: Count = 100
    outstanding: Count = 64


class Offline(Spec, frozen=True, kw_only=True, tag="offline", tag_field="kind"):
    """All requests are there at once and are worked off as fast as the system can.

    Attributes:
        queries: Requests of one run; every strategy has one run in each round.
        outstanding: Requests under way at a time.

    The figure is throughput: answered requests per second, from the start of a run to its last answer.
    """

    TAG: ClassVar[str] = "offline"

    queries: Count = 256
    outstanding: Count = 8


Scenario = SingleStream | Server | Offline


class Profile(Spec, frozen=True, kw_only=True):
    """How much is measured. A session is one start of all processes; sessions are the replicates.

    Attributes:
        sessions: Process restarts.
        rounds: Passes over the inputs in each session.
        samples: Inputs per round.
        cold_starts: Cold starts of each strategy in each session.
        min_duration_s: A session adds rounds until its measured requests have taken this long together.
        warmup_window: Requests in a warm-up window.
        warmup_windows: Most windows before measuring starts anyway (which is recorded).
    """

    sessions: Count = 1
    rounds: Count = 1
    samples: Count = 1
    cold_starts: Annotated[int, msgspec.Meta(ge=0)] = 1
    min_duration_s: NotNegative = 0.0
    warmup_window: Annotated[int, msgspec.Meta(ge=2)] = 8
    warmup_windows: Annotated[int, msgspec.Meta(ge=2)] = 8


def profile(name: ProfileName) -> Profile:
    """A profile by its name.

    ``quick`` looks around: 150 requests per strategy and 15 s in three restarts (MLPerf LoadGen's own defaults are 100
    and 10). ``study`` supports a p99: 1,032 requests per strategy, 60 s, in four restarts. ``full`` is sized after
    MLPerf Inference's 600 s: 10,240 requests in five restarts.
    """
    match name:
        case "quick":
            return Profile(
                sessions=3, rounds=2, samples=25, cold_starts=1, min_duration_s=5.0, warmup_window=5, warmup_windows=4
            )
        case "study":
            return Profile(sessions=4, rounds=3, samples=86, cold_starts=3, min_duration_s=15.0, warmup_window=16)
        case "full":
            return Profile(
                sessions=5,
                rounds=8,
                samples=256,
                cold_starts=5,
                min_duration_s=120.0,
                warmup_window=32,
                warmup_windows=16,
            )
