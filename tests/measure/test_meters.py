"""Meters against trees laid out like the kernel's, and the model against arithmetic."""

import sys
import time
import types
from pathlib import Path

import pytest

from tierwise._errors import InputError, UnavailableError
from tierwise.measure import (
    InaMeter,
    ModelledMeter,
    NvmlMeter,
    RaplMeter,
    modelled_energy,
    open_meters,
    usable_cpus,
)
from tierwise.testing import check_meter
from tierwise.topology import PowerModel, load

POWER = PowerModel(idle_w=2.0, active_w=10.0, radio_j_per_byte=1e-6, source="made up")


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def rapl(root: Path) -> Path:
    """Two packages with cores and memory inside, and psys, as a laptop's and a server's trees have them."""
    powercap = root / "class/powercap"
    for zone, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
    }.items():
        write(powercap / zone / "name", name)
        write(powercap / zone / "energy_uj", 1_000_000)
        write(powercap / zone / "max_energy_range_uj", 262_143_328_850)
    write(powercap / "intel-rapl/enabled", 1)
    return powercap


def spend(powercap: Path, uj: int) -> None:
    for zone in powercap.glob("intel-rapl:*"):
        counter = zone / "energy_uj"
        write(counter, (int(counter.read_text()) + uj) % 262_143_328_851)


def test_rapl_adds_packages_and_memory_and_nothing_twice(tmp_path: Path) -> None:
    powercap = rapl(tmp_path)
    meter = RaplMeter(tmp_path)
    running = meter.start()
    spend(powercap, 2_000_000)
    energy = running.stop()
    assert energy.joules == pytest.approx(6.0)
    assert energy.kind == "measured"
    assert energy.source == "RAPL: package-0, dram, package-1"
    check_meter(meter, lambda: spend(powercap, 1000))


def test_rapl_counters_wrap(tmp_path: Path) -> None:
    powercap = rapl(tmp_path)
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:1"):
        write(powercap / zone / "energy_uj", 262_143_328_850 - 400_000)
    running = RaplMeter(tmp_path).start()
    spend(powercap, 1_000_000)
    assert running.stop().joules == pytest.approx(3.0, rel=1e-5)


def test_rapl_that_is_not_there_or_not_readable_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="package counters"):
        RaplMeter(tmp_path)
    powercap = rapl(tmp_path)
    (powercap / "intel-rapl:0/energy_uj").unlink()
    (powercap / "intel-rapl:0/energy_uj").mkdir()  # unreadable for root, too
    with pytest.raises(UnavailableError, match="must be readable"):
        RaplMeter(tmp_path)


def ina(root: Path, *, labels: tuple[str, ...] = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")) -> Path:
    """An Orin's tree: 5 V and 2 A on the main rail."""
    hwmon = root / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    for channel, label in enumerate(labels, 1):
        write(hwmon / f"in{channel}_label", label)
        write(hwmon / f"in{channel}_input", 5000)
        write(hwmon / f"curr{channel}_input", 2000 if channel == 1 else 400)
    return hwmon


def test_ina_integrates_the_main_rail(tmp_path: Path) -> None:
    hwmon = ina(tmp_path)
    meter = InaMeter(tmp_path, period_s=0.005)
    began = time.monotonic()
    running = meter.start()
    time.sleep(0.2)
    energy = running.stop()
    took = time.monotonic() - began
    assert energy.source == "INA3221: VDD_IN"
    assert 10 * 0.2 <= energy.joules <= 10 * took
    write(hwmon / "curr1_input", 4000)
    check_meter(meter, lambda: time.sleep(0.02))


def test_ina_of_older_boards_and_without_a_main_rail(tmp_path: Path) -> None:
    device = tmp_path / "old/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write(device / "rail_name_0", "POM_5V_IN")
    write(device / "in_power0_input", 3000)
    assert InaMeter(tmp_path / "old").source == "INA3221: POM_5V_IN"
    ina(tmp_path / "other", labels=("RAIL_A", "RAIL_B"))
    meter = InaMeter(tmp_path / "other")
    assert meter.source == "INA3221: sum of RAIL_A, RAIL_B"
    running = meter.start()
    time.sleep(0.05)
    assert running.stop().joules >= 12 * 0.05
    with pytest.raises(UnavailableError, match="INA3221"):
        InaMeter(tmp_path)


class Ticks:
    """A clock and CPU counter moved by hand."""

    def __init__(self) -> None:
        self.ns, self.cpu_s = 5_000_000_000, 3.0

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def test_the_model_is_idle_and_active_power() -> None:
    ticks = Ticks()
    meter = ModelledMeter(POWER, cpus=4, clock=ticks, cpu_s=lambda: ticks.cpu_s)
    running = meter.start()
    ticks.ns += 2_000_000_000
    ticks.cpu_s += 4.0  # two of four CPUs busy all the time
    energy = running.stop()
    assert energy.joules == pytest.approx(2 * 2 + 8 * 1)
    assert (energy.kind, energy.source) == ("modelled", "power model: made up")
    check_meter(ModelledMeter(POWER, cpus=usable_cpus()), lambda: sum(range(100_000)))


def test_energy_of_a_request_over_tiers() -> None:
    power = {"mobile": POWER, "edge": PowerModel(idle_w=10, active_w=50, source="other")}
    energy = modelled_energy(0.5, {"mobile": 0.1, "edge": 0.2}, {"mobile": 10_000}, power)
    assert energy.joules == pytest.approx((2 * 0.5 + 8 * 0.1 + 0.01) + (10 * 0.5 + 40 * 0.2))
    assert energy.above_idle_j == pytest.approx(8 * 0.1 + 0.01 + 40 * 0.2)
    assert (energy.kind, energy.source) == ("modelled", "mobile: made up; edge: other")
    with pytest.raises(InputError, match="cloud has none"):
        modelled_energy(1, {"cloud": 0}, {}, power)
    with pytest.raises(InputError, match="negative"):
        modelled_energy(1, {"edge": -1}, {}, power)


def test_presets_say_where_their_watts_come_from() -> None:
    for name in ("paper", "lan", "wifi-lte"):
        for tier in load(name).tiers:
            assert tier.power is None or tier.power.source


def test_the_best_meters_are_opened(tmp_path: Path) -> None:
    rapl(tmp_path)
    opened = open_meters(POWER, root=tmp_path)
    assert opened[0].source.startswith("RAPL")
    ina(tmp_path)
    assert [meter.source for meter in open_meters(POWER, root=tmp_path)] == ["INA3221: VDD_IN"]
    nothing = open_meters(POWER, root=tmp_path / "none")
    assert nothing[0].source.startswith(("power model", "NVML"))


def test_nvml_adds_the_counters_of_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    # The calls of nvidia-ml-py, for machines without a GPU; a counter is in millijoules.
    library = types.ModuleType("pynvml")
    counters = {0: 1_000, 1: 5_000}
    library.NVMLError = type("NVMLError", (Exception,), {})
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetCount = lambda: 2
    library.nvmlDeviceGetHandleByIndex = lambda i: i
    library.nvmlDeviceGetName = lambda i: f"GPU {i}"
    library.nvmlDeviceGetTotalEnergyConsumption = counters.__getitem__
    monkeypatch.setitem(sys.modules, "pynvml", library)
    meter = NvmlMeter()
    running = meter.start()
    counters[0] += 1_500
    counters[1] += 500
    assert running.stop().joules == pytest.approx(2.0)
    assert meter.source == "NVML: GPU 0, GPU 1"

    def unsupported(_: int) -> int:
        raise library.NVMLError("not supported")

    library.nvmlDeviceGetTotalEnergyConsumption = unsupported
    with pytest.raises(UnavailableError, match="not supported"):
        NvmlMeter()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UnavailableError, match="nvidia-ml-py"):
        NvmlMeter()
