"""A pipeline that picks, request by request, between the device, a split and a node above."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, final

from tierwise._clock import Clock, SystemClock
from tierwise._errors import InputError, RemoteError
from tierwise.measure import Reply
from tierwise.runtime._chooser import Candidate, Choice, Chooser
from tierwise.runtime._link_state import LinkFacts, LinkState
from tierwise.runtime._paths import LONGEST_DEADLINE_S, Paths
from tierwise.runtime._pipeline import Items
from tierwise.runtime._race import Race
from tierwise.runtime._route import PathFacts, Route, is_request_wrong
from tierwise.runtime._scout import Scout
from tierwise.wire import status_of

__all__ = ["AdaptivePipeline", "AnswerObserver", "PipelineFacts"]

CHOSEN = "chosen"
# Handing a request from one path to the next takes a moment of its own.
_HANDOVER_S = 0.005
# An answer that comes after all is better than none: what the device has when its own path is late.
_LAST_RESORT_S = 30.0


class AnswerObserver(Protocol):
    """Who is told what became of each request, from the thread that asked."""

    def answered(self, path: str, why: str, request_s: float) -> None:
        """A request was answered by ``path``, ``request_s`` after it was asked."""
        ...

    def unanswered(self) -> None:
        """A request was answered by no path."""
        ...


@final
@dataclass(frozen=True)
class PipelineFacts:
    """An adaptive pipeline as it was at one moment.

    Attributes:
        chosen: The path that requests take; None where none may be used.
        switches: How often that changed.
        paths: The paths, the most accurate first.
        links: What is known of the links by name.
        answered: Answered requests by path and reason.
        unanswered: Requests that no path could answer.
        late: Answers that were thrown away because the request had been answered.
        missed: Requests that were answered after their deadline.
    """

    chosen: str | None
    switches: int
    paths: tuple[PathFacts, ...]
    links: Mapping[str, LinkFacts]
    answered: Mapping[tuple[str, str], int]
    unanswered: int
    late: int
    missed: int


@final
class AdaptivePipeline:
    """Answers each request by the best path there is at the moment; may be used from several threads.

    A path's latency is predicted as its computing (measured) + bytes / goodput + round trip of its link (learnt from
    the accounts of answers, and from probes while none come). The policy picks a path; a remote one gets only so much
    time that the device can still answer before the deadline, then the device's own path is started. Whatever answers
    first is the answer, and no request has two. A path that fails is left alone and tried again by itself
    (`BreakerSpec`), with a copy of the latest request; none of the user's requests waits for that.

    Example::

        paths = Paths(
            policy="accurate",
            deadline_s=0.3,
            paths=(
                PathSpec(name="offload", accuracy_frac=0.95, node="10.0.0.7:8001", model="large", link="wifi",
                         over_link=True),
                PathSpec(name="split", accuracy_frac=0.93, node="unix:/run/tierwise.sock", model="cut", link="wifi",
                         probe="10.0.0.7:8001"),
                PathSpec(name="local", accuracy_frac=0.88, node="unix:/run/tierwise.sock", model="small"),
            ),
        )
        with AdaptivePipeline(paths) as pipeline:
            reply = pipeline.infer({"payload": pixels})
            print(reply.made_by, reply.why)          # offload chosen
            # ... the access point goes down ...
            print(pipeline.infer({"payload": pixels}).why)   # fallback: deadline

    ``Reply.why`` is ``chosen``; or ``fallback:`` and ``breaker`` (a better path has failed lately), ``forecast`` (a
    better path would be too late), ``deadline`` (it was) or ``failed (STATUS)``; or ``hedge``.

    Args:
        spec: The paths and the policy (`load_paths` reads them from a file).
        clock: The host's clock.
        seed: Of the breakers' jitter; None: another one every time.
        observer: Is told of every answer.

    Raises:
        ArtifactError: The artifact of a path in this process cannot be run.
    """

    def __init__(
        self,
        spec: Paths,
        clock: Clock | None = None,
        seed: int | None = None,
        observer: AnswerObserver | None = None,
    ) -> None:
        self.spec, self._observer = spec, observer
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._links = {path.link: LinkState() for path in spec.paths if path.link is not None}
        draw = random.Random(seed).random
        ranked = sorted(spec.paths, key=lambda path: -path.accuracy_frac)
        self._routes = [
            Route(
                path,
                spec.input,
                self._links[path.link] if path.link is not None else None,
                spec.breaker,
                draw,
                self._clock,
                self._lock,
                None if path.node is None else spec.credentials_for(path.node),
            )
            for path in ranked
        ]
        self._here = [route for route in self._routes if not route.remote]
        self._chooser = Chooser(spec.policy, spec.margin_frac, spec.dwell_s)
        self._choice = Choice()
        self._choosing = threading.Lock()
        self._steps = 0
        self._latest: Items | None = None
        self._counted = threading.Lock()
        self._answers: Counter[tuple[str, str]] = Counter()
        self._unanswered = self._late = self._missed = 0
        # Two pools, so that requests that hang on a dead link never keep the device's own path waiting.
        self._away_pool = ThreadPoolExecutor(spec.outstanding, thread_name_prefix="tierwise-away")
        self._here_pool = ThreadPoolExecutor(spec.outstanding, thread_name_prefix="tierwise-here")
        self._scout = Scout(
            spec,
            self._routes,
            self._links,
            self._lock,
            self._clock,
            lambda: self._latest,
            lambda route: self._limit_s(route, spec.deadline_s),
        )

    def __enter__(self) -> AdaptivePipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; requests under way end with `RemoteError`."""
        for route in self._routes:
            route.close()
        self._scout.stop()
        self._away_pool.shutdown()
        self._here_pool.shutdown()

    def infer(self, items: Items, deadline_s: float | None = None) -> Reply:
        """Answer a request, once.

        Args:
            items: Tensors by name, or items where the spec says how they become tensors.
            deadline_s: How long the answer may take; None: what the spec says. It is kept as far as the device's own
                path can keep it; an answer after it is an answer all the same.

        Returns:
            The answer; ``made_by`` is the path's name and ``why`` says how it came to be that one.

        Raises:
            InputError: The request does not fit the model, or the deadline is no number of seconds.
            RemoteError: No path could answer; the message holds what each of them said.
        """
        begun_ns = self._clock.now_ns()
        until_ns = begun_ns + round(1e9 * (self.spec.deadline_s if deadline_s is None else _checked(deadline_s)))
        race = Race()
        plan, why = self._plan(begun_ns, until_ns, strict=deadline_s is not None)
        for position, route in enumerate(plan):
            # Time is kept for the device's own paths as long as one is still to be asked.
            spare = any(not later.remote for later in plan[position + 1 :])
            why = self._leg(race, route, items, until_ns, why, hedge=position == 0, spare=spare)
            if race.winner is not None:
                break
        race.close()
        winner, refusing = race.winner, {name for name, error in race.errors if is_request_wrong(error)}
        if winner is not None:
            for route in plan:
                if route.name in refusing:
                    route.contradict()
        if winner is not None or (self._latest is None and not refusing):
            self._latest = items  # what no path has answered is tried with only where there is nothing better
        ended_ns = self._clock.now_ns()
        with self._counted:
            if winner is None:
                self._unanswered += 1
            else:
                self._answers[winner.made_by, winner.why] += 1
                self._missed += ended_ns > until_ns
        if winner is None:
            if self._observer is not None:
                self._observer.unanswered()
            raise _failure(race.errors, [route.name for route in plan])
        if self._observer is not None:
            self._observer.answered(winner.made_by, winner.why, (ended_ns - begun_ns) / 1e9)
        return winner

    def facts(self) -> PipelineFacts:
        """The pipeline as it is now."""
        choice = self._choice
        paths = tuple(route.facts() for route in self._routes)
        with self._lock:
            links = {name: link.facts for name, link in self._links.items()}
        with self._counted:
            return PipelineFacts(
                choice.name,
                choice.switches,
                paths,
                links,
                dict(self._answers),
                self._unanswered,
                self._late,
                self._missed,
            )

    def _leg(self, race: Race, route: Route, items: Items, until_ns: int, why: str, *, hedge: bool, spare: bool) -> str:
        """Ask one path of the plan for as long as it has; why the next one is asked, where it is."""
        attempt = route.begin()
        left_s = (until_ns - attempt.begun_ns) / 1e9
        budget_s = left_s - (self._reserve_s(left_s) if spare else 0.0) if route.remote else None
        if budget_s is not None and budget_s <= 0:
            return "fallback: deadline"
        careful_s = route.candidate(0.0).careful_s
        timeout_s = max(left_s, 0.001) if route.remote else max(left_s, _LAST_RESORT_S)
        race.enter()

        def run() -> None:
            if not race.open:
                race.fail(route.name, RemoteError("nobody waited for it any more", where=route.name))
                return
            try:
                reply = route.ask(items, attempt, timeout_s)
            except Exception as error:  # whatever a path raises, the request must come to an end
                race.fail(route.name, error)
                return
            if not race.offer(dataclasses.replace(reply, made_by=route.name, why=why)):
                with self._counted:
                    self._late += 1

        failed_before = len(race.errors)
        try:
            (self._away_pool if route.remote else self._here_pool).submit(run)
        except RuntimeError:  # what a pool raises that has been shut down
            race.fail(route.name, RemoteError("infer must be called on an open pipeline", where=route.name))
        p95_s = route.p95_s if self.spec.hedge and hedge and route.remote and self._here else None
        if p95_s is not None and budget_s is not None and p95_s < budget_s:
            if race.wait(p95_s) or len(race.errors) > failed_before:
                return _reason(race, failed_before)
            return "hedge"
        if race.wait(budget_s):
            return why
        if len(race.errors) == failed_before:
            route.give_up(attempt, blame=careful_s is None or budget_s is None or careful_s <= budget_s)
        return _reason(race, failed_before)

    def _plan(self, now_ns: int, until_ns: int, *, strict: bool) -> tuple[list[Route], str]:
        """The paths in the order they are asked, and why the first is the first."""
        candidates = [route.candidate(self._limit_s(route, self.spec.deadline_s)) for route in self._routes]
        with self._lock:
            steps = sum(link.steps for link in self._links.values())
        with self._choosing:
            stepped, self._steps = steps > self._steps, max(steps, self._steps)
            choice = self._choice = self._chooser.step(self._choice, candidates, now_ns, stepped=stepped)
        left_s = (until_ns - now_ns) / 1e9
        if strict:  # which path is in time for this request says nothing of the next one
            candidates = [route.candidate(self._limit_s(route, left_s)) for route in self._routes]
            choice = self._chooser.step(choice, candidates, now_ns, stepped=True)
        chosen = next((route for route in self._routes if route.name == choice.name), None)
        known = {one.name: one for one in candidates}
        here = sorted(self._here, key=lambda one: (not known[one.name].usable, known[one.name].expected_s or 0.0))
        away = [route for route, one in zip(self._routes, candidates, strict=True) if route.remote and one.usable]
        if chosen is None:  # every breaker is open: the device's own path is asked all the same
            chosen = here[0] if here else self._routes[0]
        elif strict and chosen.remote and here:
            careful_s = known[chosen.name].careful_s
            if careful_s is not None and careful_s > known[chosen.name].limit_s:
                return [*here, *away], "fallback: forecast"
        rest = [route for route in (*here, *away) if route is not chosen]
        return [chosen, *rest], self._why(chosen, candidates)

    def _why(self, chosen: Route, candidates: list[Candidate]) -> str:
        mine = next(one for one in candidates if one.name == chosen.name)
        if self.spec.policy == "fast":
            quicker = any(not one.usable and one.is_quicker_than(mine) for one in candidates)
            return "fallback: breaker" if quicker else CHOSEN
        most_accurate = candidates[0]
        if most_accurate is mine:
            return CHOSEN
        return "fallback: forecast" if most_accurate.usable else "fallback: breaker"

    def _limit_s(self, route: Route, deadline_s: float) -> float:
        """How long a path may take for a deadline."""
        return deadline_s - self._reserve_s(deadline_s) if route.remote else deadline_s

    def _reserve_s(self, left_s: float) -> float:
        """Time that the device's own path needs behind a remote one; 0 where it could not make it anyway."""
        if not self._here:
            return 0.0
        asked = [(here.candidate(0.0), here.p95_s or 0.0) for here in self._here]
        usable = [one for one in asked if one[0].usable] or asked
        known_s = [max(one.careful_s, p95_s) for one, p95_s in usable if one.careful_s is not None]
        if not known_s:
            return left_s / 2
        need_s = min(known_s) + _HANDOVER_S
        return need_s if need_s < left_s else 0.0


def _checked(deadline_s: float) -> float:
    if not 0 < deadline_s <= LONGEST_DEADLINE_S:
        raise InputError(f"a deadline must be above 0 and at most {LONGEST_DEADLINE_S:,} s", got=deadline_s)
    return deadline_s


def _reason(race: Race, failed_before: int) -> str:
    """Why the next path is asked."""
    failed = race.errors[failed_before:]
    if not failed:
        return "fallback: deadline"
    error = failed[-1][1]
    return f"fallback: failed ({status_of(error).name if isinstance(error, RemoteError) else type(error).__name__})"


def _failure(errors: list[tuple[str, Exception]], asked: list[str]) -> Exception:
    """What is raised for a request that none of the paths that were asked has answered."""
    if errors and all(isinstance(error, InputError) for _, error in errors):
        return errors[0][1]
    failed = {name for name, _ in errors}
    late = [f"{name}: no answer in time" for name in asked if name not in failed]
    said = "; ".join([*(f"{name}: {error}" for name, error in errors), *late])
    return RemoteError("one of the paths must answer", got=said)
