"""Which rate of a coded latent is taken when the link changes: forecast, link state and chooser together."""

from __future__ import annotations

import itertools

import pytest

from tierwise.measure import Reply, StageTime
from tierwise.runtime import Candidate, Choice, Chooser, LinkState
from tierwise.runtime._forecast import Forecast

MS = 1_000_000
SENT = {"split-12": 3300, "split-6": 1700, "split-3": 900}
ANSWER, RTT_S, LIMIT_S, COMPUTE_S = 700, 0.02, 0.15, 0.015
BEST = {10e6: "split-12", 0.25e6: "split-6", 0.15e6: "split-3", 0.05e6: "local"}


def takes_s(name: str, rate_bps: float) -> float:
    return RTT_S + 8 * (SENT[name] + ANSWER) / rate_bps


class Device:
    """Requests one after another over a link whose rate is set, and nothing else."""

    def __init__(self) -> None:
        self.link, self.now_ns = LinkState(), 0
        self.paths = {name: Forecast(self.link, size) for name, size in SENT.items()}
        self.chooser, self.choice, self.steps = Chooser("accurate", 0.1, 0.5), Choice(), 0

    def choose(self) -> str:
        candidates = [
            Candidate(name, True, path.expected_s, path.careful_s, LIMIT_S) for name, path in self.paths.items()
        ]
        stepped, self.steps = self.link.steps > self.steps, self.link.steps
        candidates.append(Candidate("local", True, 0.12, 0.12, LIMIT_S))
        self.choice = self.chooser.step(self.choice, candidates, self.now_ns, stepped=stepped)
        assert self.choice.name is not None
        return self.choice.name

    def probe(self, rate_bps: float) -> None:
        for size in (300, 2000):
            self.link.observe(size, 200, RTT_S + 8 * (size + 200) / rate_bps, self.now_ns)

    def ask(self, rate_bps: float) -> str:
        name = self.choose()
        self.answer(name, rate_bps)
        return name

    def refresh(self, rate_bps: float) -> None:
        """What the scout does: copies of a request along every path that the link can carry in time."""
        for name, path in self.paths.items():
            if (path.least_s or 0.0) <= LIMIT_S:
                self.answer(name, rate_bps)

    def answer(self, name: str, rate_bps: float) -> None:
        link_s = takes_s(name, rate_bps) if name in SENT else 0.0
        self.now_ns += round(1e9 * (link_s + COMPUTE_S))
        if name in SENT:
            stages = (StageTime("device", "head", COMPUTE_S), StageTime("device", "uplink", link_s))
            reply = Reply({}, stages, SENT[name], ANSWER, ("device", "above"))
            self.paths[name].observe(reply, link_s + COMPUTE_S, self.now_ns)


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(tuple(BEST), 2)))
def test_two_exchanges_after_a_change_requests_take_a_rate_that_the_link_carries(before: float, after: float) -> None:
    device = Device()
    device.probe(before)
    for i in range(30):
        device.ask(before)
        device.probe(before)
        if i % 5 == 0:
            device.refresh(before)
    assert device.choose() == BEST[before]
    # What crosses the link after the change: two requests, or two rounds of probes where none does.
    for _ in range(2):
        if device.ask(after) == "local":
            device.probe(after)
    # The estimate is near enough for a path that keeps its limit, and where all is much faster for the best one.
    taken = device.choose()
    assert taken == "local" or takes_s(taken, after) + COMPUTE_S <= LIMIT_S
    assert device.link.facts.up_bps == pytest.approx(after, rel=0.55)
    if after > 10 * before:
        assert taken == BEST[after]
    for i in range(60):
        device.ask(after)
        device.probe(after)
        if i % 5 == 0:
            device.refresh(after)
    assert device.choose() == BEST[after]


def test_pictures_that_a_filter_drops_do_not_make_others_cross_faster() -> None:
    link, ms = LinkState(), 0
    path, plain = Forecast(link), Forecast(None)
    crossed = Reply({}, (StageTime("device", "uplink", 0.15),), 7000, 100, ("device", "above"))
    dropped = Reply({}, (), 0, 0, ("device",))

    def answers(reply: Reply, latency_s: float, count: int) -> None:
        nonlocal ms
        for _ in range(count):
            ms += 100
            path.observe(reply, latency_s, ms * MS)

    answers(dropped, 0.005, 5)
    assert path.expected_s == pytest.approx(0.005)
    assert path.careful_s is None, "what crosses has never been seen"
    answers(crossed, 0.157, 20)
    careful_s, least_s = path.careful_s, path.least_s
    answers(dropped, 0.005, 200)
    assert path.careful_s == careful_s, "a picture that is sent has as far to go as before"
    assert path.least_s == least_s
    assert path.expected_s == pytest.approx(0.005, rel=0.05), "most of them are answered at once"
    plain.observe(Reply({}, (), 0, 0, ("device",)), 0.01, 1)
    assert (plain.expected_s, plain.careful_s) == (0.01, 0.02), "without a link there is nothing to cross"
