"""A path at work: what is asked along it, what is known of it, and whether it may be taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import grpc

from tierwise._clock import Clock
from tierwise._errors import InputError, RemoteError
from tierwise.artifact import InputEncoding
from tierwise.measure import Reply
from tierwise.runtime._breaker import Breaker, BreakerSpec, BreakerState
from tierwise.runtime._chooser import Candidate
from tierwise.runtime._forecast import Forecast
from tierwise.runtime._in_process import InProcess
from tierwise.runtime._link_state import LinkState
from tierwise.runtime._paths import PathSpec
from tierwise.runtime._pipeline import Items, Pipeline
from tierwise.wire import Credentials, status_of

__all__ = ["Attempt", "PathFacts", "Route", "is_request_wrong"]

# After a break nothing of what was known holds, and one answer is no knowledge yet.
_LEAST_ANSWERS = 3
_BETWEEN_TRIALS_S = 0.05
# A rate that nothing has confirmed for so long may be another one by now.
_RATE_HOLDS_NS = 10_000_000_000
# Messages too small to tell a rate may keep a wrong one alive: what seems too slow is tried so often all the same.
_DOUBT_NS = 30_000_000_000


@final
class Attempt:
    """One request along one path.

    Attributes:
        begun_ns: When it began.
        trial: Whether nobody waits for the answer: it is made to learn about the path.
        overdue: Whether it took longer than it had; it has been counted as failed then.
    """

    __slots__ = ("begun_ns", "overdue", "trial")

    def __init__(self, begun_ns: int, *, trial: bool = False) -> None:
        self.begun_ns, self.trial, self.overdue = begun_ns, trial, False


@final
@dataclass(frozen=True)
class PathFacts:
    """A path as it was at one moment.

    Attributes:
        name: Its name.
        breaker: State of its breaker.
        expected_s: Usual latency now; None where it was never measured.
        answered: Requests it answered, trials included.
        failed: Requests that failed on it.
        overdue: Requests it did not answer in the time it had.
        opened: How often its breaker opened.
    """

    name: str
    breaker: BreakerState
    expected_s: float | None
    answered: int
    failed: int
    overdue: int
    opened: int


@final
class Route:
    """A path of an adaptive pipeline; safe for threads.

    Args:
        spec: The path.
        encoding: How items become tensors; None: requests are tensors.
        link: The state of its link, shared with other paths over it; None where it crosses none.
        breaker: When it is left alone.
        draw: Draws evenly from 0 to 1.
        clock: The host's clock.
        lock: Guards what is known, of all paths of a pipeline alike.
        credentials: How its node lets this side in; None: as the environment says.

    Raises:
        ArtifactError: The path's artifact cannot be run.
    """

    def __init__(
        self,
        spec: PathSpec,
        encoding: InputEncoding | None,
        link: LinkState | None,
        breaker: BreakerSpec,
        draw: Callable[[], float],
        clock: Clock,
        lock: threading.Lock,
        credentials: Credentials | None = None,
    ) -> None:
        self.spec, self._link, self._clock, self._lock = spec, link, clock, lock
        self._asked: Pipeline | InProcess
        if spec.node is None or spec.model is None:
            self._asked = InProcess(Path(spec.artifact or "."))
        else:
            self._asked = Pipeline(
                spec.node,
                spec.model,
                spec.input or encoding,
                over_link=spec.over_link,
                credentials=credentials,
                channels=spec.channels,
                picture=None if spec.picture is None else (spec.picture.kind, spec.picture.quality),
            )
        self._breaker = Breaker(breaker, draw)
        self._forecast = Forecast(link, spec.request_bytes)
        self._learnt = self._answered = self._failed = self._overdue = 0
        self._tried_ns: int | None = None
        self._begun_ns = clock.now_ns()
        self._trying = False

    @property
    def name(self) -> str:
        """The path's name."""
        return self.spec.name

    @property
    def remote(self) -> bool:
        """Whether it crosses a link."""
        return self.spec.link is not None

    def close(self) -> None:
        """Close its connection; requests under way end with an error."""
        self._asked.close()

    def candidate(self, limit_s: float) -> Candidate:
        """The path for the chooser, with ``limit_s`` to answer in."""
        with self._lock:
            forecast = self._forecast
            usable = self._breaker.state == "closed"
            return Candidate(self.name, usable, forecast.expected_s, forecast.careful_s, limit_s)

    @property
    def p95_s(self) -> float | None:
        """95th percentile of its latencies; None before there are enough."""
        with self._lock:
            return self._forecast.p95_s

    def facts(self) -> PathFacts:
        """The path as it is now."""
        with self._lock:
            return PathFacts(
                self.name,
                self._breaker.state,
                self._forecast.expected_s,
                self._answered,
                self._failed,
                self._overdue,
                self._breaker.opened,
            )

    def begin(self, *, trial: bool = False) -> Attempt:
        """An attempt that begins now."""
        return Attempt(self._clock.now_ns(), trial=trial)

    def begin_trial(self, refresh_s: float, limit_s: float) -> Attempt | None:
        """A trial, where one is due: its breaker has been open for long enough, or nothing is known of it lately.

        While its link is known to be too slow for it, one is due twice a minute: its message keeps others waiting.
        """
        now_ns = self._clock.now_ns()
        with self._lock:
            if self._trying or self._is_hopeless(limit_s, now_ns):
                return None
            due = self._breaker.begin_trial(now_ns)
            if not due and self._breaker.state == "closed":
                seen_ns = max(self._forecast.observed_ns or 0, self._tried_ns or 0)
                unknown = self._learnt < _LEAST_ANSWERS
                old = refresh_s > 0 and now_ns - seen_ns > 1e9 * refresh_s
                due = old or (unknown and now_ns - seen_ns > 1e9 * _BETWEEN_TRIALS_S)
            if not due:
                return None
            self._tried_ns, self._trying = now_ns, True
            return Attempt(now_ns, trial=True)

    def _is_hopeless(self, limit_s: float, now_ns: int) -> bool:
        if self._link is None or now_ns - self._link.rated_ns > _RATE_HOLDS_NS:
            return False
        seen_ns = max(self._forecast.observed_ns or 0, self._tried_ns or 0, self._begun_ns)
        if now_ns - seen_ns > _DOUBT_NS:
            return False
        least_s = self._forecast.least_s
        return least_s is not None and least_s > limit_s

    def ask(self, items: Items, attempt: Attempt, timeout_s: float) -> Reply:
        """The path's answer; what is seen of it is learnt from.

        Raises:
            InputError: The request does not fit the model.
            TierwiseError: The path failed.
        """
        try:
            reply = self._asked.infer(items, timeout_s)
        except Exception as error:
            # A trial repeats what some path has answered: the request is not to blame.
            self._note_failure(attempt, blame=attempt.trial or not is_request_wrong(error))
            raise
        now_ns = self._clock.now_ns()
        with self._lock:
            self._answered += 1
            if attempt.trial and self._breaker.state == "half-open":
                # It has met what the break left behind (connections to open again, packets to send again).
                self._forget()
            else:
                self._learnt += 1
                self._forecast.observe(reply, (now_ns - attempt.begun_ns) / 1e9, now_ns)
            if attempt.trial:
                self._trying = False
            if not attempt.overdue:
                self._breaker.succeeded(trial=attempt.trial)
        return reply

    def give_up(self, attempt: Attempt, *, blame: bool) -> None:
        """The attempt has taken longer than it had; ``blame`` says whether that was long enough by what is known.

        It goes on: where it comes to an answer after all, what that took is learnt.
        """
        with self._lock:
            attempt.overdue = True
            self._overdue += 1
            if blame:
                self._breaker.failed(self._clock.now_ns())

    def _note_failure(self, attempt: Attempt, *, blame: bool) -> None:
        with self._lock:
            if attempt.trial:
                self._trying = False
            if attempt.overdue:
                return
            self._failed += 1
            if blame:
                self._breaker.failed(self._clock.now_ns(), trial=attempt.trial)

    def contradict(self) -> None:
        """A request that the path refused as wrong has been answered by another: the path is to blame after all.

        Its model may want other inputs, or its parts may not belong together; whatever it is, it may go on for ever.
        """
        with self._lock:
            self._breaker.failed(self._clock.now_ns())

    def _forget(self) -> None:
        """Nothing that was known before a break need hold after it."""
        if self._link is not None:
            self._link.forget()
        self._forecast = Forecast(self._link, self.spec.request_bytes)
        self._learnt = 0


def is_request_wrong(error: Exception) -> bool:
    """Whether the request is to blame, by what the path says."""
    if isinstance(error, RemoteError):
        return status_of(error) is grpc.StatusCode.INVALID_ARGUMENT
    return isinstance(error, InputError)
