"""Requests between two readings of counters that a clock moves: no time passes, no figure is noisy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierwise._errors import UnavailableError
from tierwise.measure import (
    Block,
    Offline,
    Query,
    RaplMeter,
    Record,
    Reply,
    SingleStream,
    Turn,
    Wattmeter,
    open_meters,
    run_block,
    run_cold,
)

RANGE_UJ = 40_000_000


class Machine:
    """A clock, and a package that draws 10 W, and 30 W while it computes. Its counter wraps at 40 J."""

    def __init__(self, root: Path, start_uj: int = 0) -> None:
        self.zone = root / "class/powercap/intel-rapl:0"
        self.zone.mkdir(parents=True)
        (self.zone / "name").write_text("package-0\n")
        (self.zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        self.ns, self.uj = 0, start_uj
        self._write()

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.draw(max(0.0, seconds), 10)

    def draw(self, seconds: float, watts: int) -> None:
        self.ns += round(seconds * 1e9)
        self.uj += round(watts * seconds * 1e6)
        self._write()

    def _write(self) -> None:
        (self.zone / "energy_uj").write_text(f"{self.uj % (RANGE_UJ + 1)}\n")


class Computer:
    """Answers after computing for some seconds."""

    def __init__(self, name: str, machine: Machine, seconds: float) -> None:
        self.name, self._machine, self._seconds = name, machine, seconds

    def issue(self, sample: int) -> Reply:
        self._machine.draw(self._seconds, 30)
        return Reply({})


def measured(machine: Machine, root: Path, **seconds: float) -> tuple[Record, ...]:
    wattmeter = Wattmeter([RaplMeter(root)], machine)
    assert wattmeter.rest.idle_w == pytest.approx(10)
    assert wattmeter.rest.source == "RAPL: package-0"
    systems = {name: Computer(name, machine, time_s) for name, time_s in seconds.items()}
    block = Block(0, tuple(systems), (Query(0, 0),))
    return run_block(block, systems, SingleStream(), machine, Turn(session=0), wattmeter)


def test_every_request_has_its_joules_with_and_without_the_machine_at_rest(tmp_path: Path) -> None:
    fast, slow = measured(Machine(tmp_path), tmp_path, fast=0.1, slow=0.4)
    assert (fast.energy_j, fast.above_idle_j) == pytest.approx((3.0, 2.0))
    assert (slow.energy_j, slow.above_idle_j) == pytest.approx((12.0, 8.0))
    assert fast.latency_s == pytest.approx(0.1)


@pytest.mark.parametrize("left_j", [5, 12, 20])
def test_counters_wrap_at_rest_or_in_the_midst_of_a_request(left_j: int, tmp_path: Path) -> None:
    # The rest takes 10 J, the first request 3 J, the second 12 J: the wrap comes in each of them once.
    machine = Machine(tmp_path, RANGE_UJ - left_j * 1_000_000)
    fast, slow = measured(machine, tmp_path, fast=0.1, slow=0.4)
    assert machine.uj > RANGE_UJ
    assert (fast.energy_j, slow.energy_j) == pytest.approx((3.0, 12.0), rel=1e-5)


def test_requests_that_overlap_share_what_their_turn_used(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    wattmeter = Wattmeter([RaplMeter(tmp_path)], machine)
    block = Block(0, ("s",), tuple(Query(number, 0) for number in range(4)))
    scenario = Offline(queries=4, outstanding=1)
    records = run_block(block, {"s": Computer("s", machine, 0.2)}, scenario, machine, Turn(session=0), wattmeter)
    assert [record.energy_j for record in records] == pytest.approx([6.0] * 4)
    assert [record.above_idle_j for record in records] == pytest.approx([4.0] * 4)


def test_a_meter_that_fails_costs_the_figure_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    wattmeter = Wattmeter([RaplMeter(tmp_path)], machine)
    block, systems = Block(0, ("s",), (Query(0, 0),)), {"s": Computer("s", machine, 0.1)}
    before = (machine.zone / "energy_uj").read_text()
    (machine.zone / "energy_uj").unlink()
    (machine.zone / "energy_uj").mkdir()
    machine._write = lambda: None  # type: ignore[method-assign]
    (record,) = run_block(block, systems, SingleStream(), machine, Turn(session=0), wattmeter)
    assert (record.error, record.energy_j, record.above_idle_j) == (None, None, None)
    (machine.zone / "energy_uj").rmdir()
    (machine.zone / "energy_uj").write_text(before)
    (record,) = run_block(block, systems, SingleStream(), machine, Turn(session=0), wattmeter)
    assert record.energy_j == 0


def test_without_a_meter_nothing_is_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    block, systems = Block(0, ("s",), (Query(0, 0),)), {"s": Computer("s", machine, 0.1)}
    (record,) = run_block(block, systems, SingleStream(), machine, Turn(session=0))
    assert (record.energy_j, record.above_idle_j) == (None, None)
    assert run_cold(systems["s"], SingleStream(), 0, 0, 0.1, machine, Turn(session=0)).energy_j is None
    with pytest.raises(UnavailableError, match="has a meter"):
        Wattmeter([], machine)
    assert len(open_meters(root=tmp_path)) >= 1
