"""A short study, its nodes real processes, beside a powercap tree whose counter a process moves like a processor's."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from tierwise.measure import Profile, Silent, SingleStream, open_meters
from tierwise.planner import Need, recommend
from tierwise.study import Campaign, StrategySpec, StudyData, evidence_of, load_study, study_figures
from tierwise.study._lock import locked
from tierwise.study._run import run_locked
from tierwise.study._session import _wattmeter
from tierwise.tasks import BuiltinTask, ResNet, Training
from tierwise.topology import Link, PowerModel, Tier, Topology

POWER = PowerModel(idle_w=1.0, active_w=2.0, source="made up")
TINY = Campaign(
    name="tiny",
    task=BuiltinTask(
        name="digits",
        subject=ResNet(depth=8, width=4),
        training=Training(epochs=1, precision="float32"),
        train_items=200,
    ),
    topology=Topology(
        name="two",
        tiers=(
            Tier(name="low", cpus=1.0, memory_bytes=2 * 10**9, power=POWER),
            Tier(name="high", cpus=1.0, memory_bytes=2 * 10**9, power=POWER),
        ),
        links=(Link(lower="low", upper="high", up_bps=50e6, down_bps=50e6, rtt_s=0.004),),
    ),
    profile=Profile(sessions=2, rounds=2, samples=8, cold_starts=1, warmup_window=2, warmup_windows=2),
    scenario=SingleStream(),
    strategies=(StrategySpec(chain="identity"),),
    link_means="proxy",
)
WATTS, RANGE_UJ = 50.0, 150_000_000
"""The counter wraps every three seconds."""


COUNTER = """
import sys, time
from pathlib import Path
zone, watts, range_uj, began = Path(sys.argv[1]), *map(float, sys.argv[2:])
while zone.exists():
    uj = int(watts * 1e6 * (time.monotonic() - began)) % (int(range_uj) + 1)
    (zone / "next").write_text(f"{uj}\\n")
    (zone / "next").replace(zone / "energy_uj")
    time.sleep(0.001)
"""


@contextmanager
def counting(root: Path) -> Iterator[list[int]]:
    """A package that draws 50 W all the time; its counter is put in place whole, so that no reader finds half of it.

    It is moved by a process of its own: a thread of this one would stand still whenever the study computes, and the
    joules of a request would be those of another.
    """
    zone = root / "class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    wraps, began = [0], time.monotonic()
    asked = [sys.executable, "-S", "-c", COUNTER, *map(str, (zone, WATTS, RANGE_UJ, began))]
    process = subprocess.Popen(asked)
    try:
        while not (zone / "energy_uj").exists():
            time.sleep(0.005)
        yield wraps
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        wraps[0] = int(WATTS * 1e6 * (time.monotonic() - began)) // (RANGE_UJ + 1)


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyData, int]:
    """The study with a meter, and how often its counter wrapped."""
    folder = tmp_path_factory.mktemp("metered")
    with counting(folder / "sys") as wraps, locked(folder / "study"):
        run_locked(TINY, folder / "study", Silent(), folder / "cache", sys_root=folder / "sys")
    return load_study(folder / "study"), wraps[0]


@pytest.mark.emulation
def test_joules_of_a_study_are_those_the_meter_counted(metered: tuple[StudyData, int]) -> None:
    study, wraps = metered
    assert study.complete
    assert wraps >= 1
    for session in study.sessions:
        assert session.rest is not None
        assert "RAPL: package-0" in session.rest.source
        assert session.rest.idle_w == pytest.approx(WATTS, rel=0.1)
    warm = [record for record in study.records if not record.cold]
    assert len(warm) == 64
    assert all(record.energy_j is None for record in study.records if record.cold)
    assert all(record.energy_j is not None and record.energy_j >= 0 for record in warm)
    # At a constant draw joules are watts times the time between the readings, which holds the request.
    joules, seconds = sum(record.energy_j or 0.0 for record in warm), sum(record.latency_s for record in warm)
    assert 0.7 * WATTS * seconds < joules < 3 * WATTS * seconds
    # The machine draws as much at rest: next to nothing lies above.
    assert abs(sum(record.above_idle_j or 0.0 for record in warm)) < 0.5 * joules


def test_graphics_cards_alone_say_nothing_of_what_requests_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = types.ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    library.nvmlInit = lambda: None  # type: ignore[attr-defined]
    library.nvmlDeviceGetCount = lambda: 1  # type: ignore[attr-defined]
    library.nvmlDeviceGetHandleByIndex = lambda i: i  # type: ignore[attr-defined]
    library.nvmlDeviceGetName = lambda i: f"GPU {i}"  # type: ignore[attr-defined]
    library.nvmlDeviceGetTotalEnergyConsumption = lambda i: 1000 * time.monotonic()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert [meter.source for meter in open_meters(root=tmp_path)] == ["NVML: GPU 0"]

    def found(topology: Topology) -> str | None:
        equipment = SimpleNamespace(topology=topology, sys_root=tmp_path)
        wattmeter = _wattmeter(equipment)  # type: ignore[arg-type]
        return None if wattmeter is None else wattmeter.rest.source

    assert TINY.topology is not None
    assert found(TINY.topology) is None
    with counting(tmp_path):
        assert found(TINY.topology) == "RAPL: package-0; NVML: GPU 0"
        tiers = tuple(msgspec.structs.replace(tier, address="10.0.0.9:1") for tier in TINY.topology.tiers)
        assert found(msgspec.structs.replace(TINY.topology, tiers=tiers)) is None


@pytest.mark.emulation
def test_figures_of_measured_energy_say_so(metered: tuple[StudyData, int]) -> None:
    study, _ = metered
    evidence = evidence_of(study)
    for one in evidence.deployments:
        assert one.energy is not None
        own = [record.energy_j or 0.0 for record in study.records if record.strategy == one.id and not record.cold]
        assert (one.energy.kind, one.energy.joules) == ("measured", pytest.approx(statistics.mean(own)))
        assert one.energy.above_idle_j is not None
        assert "RAPL: package-0" in one.energy.source
        assert "idle power included" in one.energy.source
    assert all(one.energy is not None and one.energy.kind == "measured" for one in study_figures(study).strategies)
    assert recommend(evidence, Need(minimize="energy")).chosen in {one.id for one in evidence.deployments}


@pytest.mark.emulation
def test_where_one_request_lacks_its_joules_all_are_modelled_and_the_two_kinds_are_told_apart(
    metered: tuple[StudyData, int],
) -> None:
    study, _ = metered
    gap = next(record for record in study.records if record.strategy == "identity@high" and not record.cold)
    lacking = msgspec.structs.replace(gap, energy_j=None, above_idle_j=None)
    records = tuple(lacking if record is gap else record for record in study.records)
    evidence = evidence_of(replace(study, records=records))
    kinds = {one.id: one.energy.kind for one in evidence.deployments if one.energy is not None}
    assert kinds == {"identity@low": "measured", "identity@high": "modelled"}
    assert any("the two kinds cannot be ranked" in note for note in evidence.notes)


@pytest.mark.emulation
def test_a_machine_of_its_own_is_not_measured_here(metered: tuple[StudyData, int]) -> None:
    study, _ = metered
    low, high = study.topology.tiers
    away = msgspec.structs.replace(study.topology, tiers=(low, msgspec.structs.replace(high, address="10.0.0.9:1")))
    found = evidence_of(replace(study, topology=away)).deployments
    kinds = {one.id: one.energy.kind for one in found if one.energy is not None}
    assert kinds == {"identity@low": "measured", "identity@high": "modelled"}
