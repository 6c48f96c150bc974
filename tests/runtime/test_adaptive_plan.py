"""Which paths an adaptive pipeline asks, in what order and for how long, with answers that take an exact time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tierwise._errors import InputError, RemoteError
from tierwise.artifact import ImageInput
from tierwise.measure import Reply, StageTime
from tierwise.runtime import AdaptivePipeline, BreakerSpec, LinkState, Paths, PathSpec
from tierwise.runtime._route import Route
from tierwise.testing import FakeClock

GONE = RemoteError("the model is gone")


class Answers:
    """Stands where a path's node does: answers after a while, fails, or stays silent for as long as it may."""

    def __init__(self, compute_s: float, link_s: float = 0.0, *, account: bool = True) -> None:
        self.compute_s, self.link_s, self.account = compute_s, link_s, account
        self.error: Exception | None = None
        self.silent = False
        self.asked: list[Any] = []

    def close(self) -> None:
        pass

    def infer(self, items: Any, timeout_s: float | None = None) -> Reply:
        self.asked.append(items)
        if self.error is not None:
            raise self.error
        took_s, longest_s = self.compute_s + self.link_s, 30.0 if timeout_s is None else timeout_s
        if self.silent or took_s > longest_s:
            time.sleep(longest_s)
            raise RemoteError("no answer in time")
        time.sleep(took_s)
        stages = [StageTime("node", "infer", self.compute_s), StageTime("client", "uplink", self.link_s)]
        if not self.account:
            stages = [StageTime("client", "network", took_s)]
        sent = 5000 if self.link_s else 0
        return Reply({}, tuple(stages), sent, 100 if sent else 0, ("node",))


@contextmanager
def pipeline(paths: Mapping[str, Answers], **spec: Any) -> Iterator[AdaptivePipeline]:
    """The paths by name, the most accurate first; those with time on a link cross one."""
    told = tuple(
        PathSpec(
            name=name,
            accuracy_frac=0.9 - 0.1 * i,
            node="unix:/nowhere",
            model=name,
            link=f"to {name}" if answers.link_s else None,
            over_link=bool(answers.link_s),
        )
        for i, (name, answers) in enumerate(paths.items())
    )
    settings = {"probe_s": 0.0, "refresh_s": 0.0, "dwell_s": 0.0, "deadline_s": 1.0} | spec
    with AdaptivePipeline(Paths(paths=told, **settings), seed=0) as made:
        for route in made._routes:
            route._asked = paths[route.name]
        yield made


def measured(made: AdaptivePipeline) -> None:
    """Wait until the trials have measured every path."""
    until_s = time.monotonic() + 20
    while any(path.answered < 3 for path in made.facts().paths):
        assert time.monotonic() < until_s
        time.sleep(0.02)


def opened(made: AdaptivePipeline, name: str) -> None:
    """Let a path's breaker open for long."""
    (route,) = (one for one in made._routes if one.name == name)
    with made._lock:
        for _ in range(3):
            route._breaker.failed(made._clock.now_ns())


SHUT = BreakerSpec(first_wait_s=60, longest_wait_s=60)


def test_of_two_paths_on_the_device_the_other_is_asked_where_the_quicker_is_broken() -> None:
    paths = {"offload": Answers(0.02, 0.1), "medium": Answers(0.02), "small": Answers(0.002)}
    with pipeline(paths, breaker=SHUT) as made:
        made.infer({})
        measured(made)
        paths["small"].error = GONE
        for _ in range(3):
            assert made.infer({}, 0.08).made_by == "medium"
        # A broken path keeps the figures of better days; they must not put it first, nor count as time to spare.
        opened(made, "small")
        paths["small"].error, paths["small"].silent, paths["offload"].silent = None, True, True
        begun_s = time.monotonic()
        reply = made.infer({})
        assert (reply.made_by, reply.why) == ("medium", "fallback: deadline")
        assert time.monotonic() - begun_s < 5
        assert made.infer({}, 0.3).made_by == "medium"


def test_a_deadline_of_its_own_decides_for_its_request() -> None:
    paths = {"offload": Answers(0.1, 0.2), "split": Answers(0.02, 0.03), "local": Answers(0.005)}
    with pipeline(paths, deadline_s=0.2) as made:
        for _ in range(3):
            made.infer({}, 1.0)
        measured(made)
        assert made.infer({}).made_by == "split"
        assert (made.infer({}, 5.0).made_by, made.infer({}, 5.0).why) == ("offload", "chosen")
        reply = made.infer({}, 0.15)
        assert (reply.made_by, reply.why) == ("split", "fallback: forecast")
        assert made.infer({}, 0.02).made_by == "local"
        assert made.infer({}).made_by == "split", "the others' choice is as it was"


def test_no_time_is_kept_for_a_path_that_has_failed() -> None:
    paths = {"offload": Answers(0.1, 0.1), "split": Answers(0.1, 0.5), "local": Answers(0.01)}
    paths["offload"].error, paths["local"].error = GONE, GONE
    with pipeline(paths) as made:
        assert made.infer({}).made_by == "split"
        paths["split"].silent = True
        with pytest.raises(RemoteError, match=r"offload: the model is gone.*local: .* gone.*split: no answer"):
            made.infer({}, 0.3)


def test_for_speed_a_slower_path_that_is_broken_is_no_reason() -> None:
    paths = {"offload": Answers(0.02, 0.1), "local": Answers(0.005)}
    with pipeline(paths, policy="fast", breaker=SHUT) as made:
        made.infer({})
        measured(made)
        opened(made, "offload")
        assert (made.infer({}).made_by, made.infer({}).why) == ("local", "chosen")
    with pipeline(paths, policy="fast", breaker=SHUT) as made:
        made.infer({})
        measured(made)
        opened(made, "local")
        assert (made.infer({}).made_by, made.infer({}).why) == ("offload", "fallback: breaker")


def test_a_path_on_the_device_without_an_account_is_not_free() -> None:
    paths = {"offload": Answers(0.01, 0.05), "local": Answers(0.2, account=False)}
    with pipeline(paths, policy="fast") as made:
        made.infer({})
        measured(made)
        assert next(path.expected_s for path in made.facts().paths if path.name == "local") == pytest.approx(
            0.2, abs=0.1
        )
        assert made.infer({}).made_by == "offload"


@pytest.mark.parametrize("wrong", [["picture.jpg"], [5], [None], 5, "picture.jpg", np.array(5)])
def test_items_of_a_wrong_kind_say_nothing_of_the_paths(wrong: Any) -> None:
    picture = ImageInput(encoding="png", height=8, width=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    told = [
        PathSpec(name=name, accuracy_frac=0.9, node="unix:/nowhere", model=name, link=link)
        for name, link in (("far", "up"), ("near", None))
    ]
    with AdaptivePipeline(Paths(paths=tuple(told), input=picture, probe_s=0, refresh_s=0), seed=0) as made:
        for _ in range(4):
            with pytest.raises(InputError, match="must be"):
                made.infer(wrong)
        assert {path.breaker for path in made.facts().paths} == {"closed"}
        assert made._latest is None


def test_a_request_that_was_answered_is_what_paths_are_tried_with() -> None:
    paths = {"offload": Answers(0.0, 0.01), "local": Answers(0.0)}
    good, bad = {"good": np.zeros(1)}, {"bad": np.zeros(1)}
    with pipeline(paths) as made:
        made.infer(good)
        paths["offload"].error, paths["local"].error = GONE, GONE
        with pytest.raises(RemoteError):
            made.infer(bad)
        assert made._latest is good


def test_one_late_answer_does_not_lock_a_path_out_for_good() -> None:
    """Small messages may keep a wrong rate alive, which they cannot tell: what seems too slow is tried now and then."""
    draw, clock, link = random.Random(0), FakeClock(), LinkState()
    clock.sleep(100)

    class Wire:
        late_s = 0.0

        def __init__(self, sent: int) -> None:
            self.sent = sent

        def close(self) -> None:
            pass

        def infer(self, items: Any, timeout_s: float | None = None) -> Reply:
            on_link_s = 0.01 + 8 * (self.sent + 522) / 20e6 + draw.expovariate(2000) + self.late_s
            self.late_s = 0.0
            clock.sleep(on_link_s + 0.005)
            stages = (StageTime("node", "head", 0.005), StageTime("node", "uplink", on_link_s))
            return Reply({}, stages, self.sent, 522, ("node", "above"))

    def route(name: str, sent: int) -> tuple[Route, Wire]:
        spec = PathSpec(name=name, accuracy_frac=0.9, node="unix:/nowhere", model=name, link="up")
        made, wire = Route(spec, None, link, BreakerSpec(), draw.random, clock, threading.Lock()), Wire(sent)
        made._asked = wire  # type: ignore[assignment]
        return made, wire

    (large, wire), (small, _) = route("large", 50_000), route("small", 1_727)
    small.ask({}, small.begin(), 1.0)
    wire.late_s = 0.15
    large.ask({}, large.begin(), 1.0)
    trials, end_ns = 0, clock.now_ns() + 600 * 10**9
    while clock.now_ns() < end_ns:
        small.ask({}, small.begin(), 1.0)
        clock.sleep(0.01)
        attempt = large.begin_trial(10.0, 0.1)
        if attempt is not None:
            trials += 1
            large.ask({}, attempt, 0.1)
    assert trials >= 10
    assert large.facts().expected_s == pytest.approx(0.036, rel=0.2)
