"""Meters of energy behind one contract: counters and sensors of the machine, or its power model where it has none.

Every reader takes the root of the file tree it reads, so that a tree laid out like the real one stands in for it.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, final

from tierwise._clock import Clock, SystemClock
from tierwise._errors import UnavailableError
from tierwise.measure._energy import Energy, Power

__all__ = ["InaMeter", "Meter", "ModelledMeter", "NvmlMeter", "RaplMeter", "Running", "open_meters"]

_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0_IN")
"""Rails of Jetson boards that everything else hangs on."""


class Running(Protocol):
    """A measurement that was started."""

    def stop(self) -> Energy:
        """Energy since it was started; may be asked again, for a later moment."""
        ...


class Meter(Protocol):
    """Whatever can say how much energy was used. Measurements may overlap; `tierwise.testing.check_meter` checks."""

    @property
    def source(self) -> str:
        """What is read, and which parts of the machine it covers."""
        ...

    def start(self) -> Running:
        """Begin a measurement."""
        ...


@final
class _Span:
    """A measurement as a difference of two readings in joules."""

    def __init__(self, joules: Callable[[], float], energy: Callable[[float], Energy]) -> None:
        self._joules, self._energy = joules, energy
        self._before = joules()

    def stop(self) -> Energy:
        return self._energy(self._joules() - self._before)


@final
class RaplMeter:
    """RAPL counters of x86 packages and their memory, through the kernel's powercap interface.

    A package's counter leaves out memory, which has one of its own where the processor counts it; cores and graphics
    are inside the package, and ``psys`` covers all again: neither is added. Counters wrap; readings must not lie
    further apart than one wrap (above half an hour at 100 W).

    Args:
        root: Usually ``/sys``.

    Raises:
        UnavailableError: No counter, or none that may be read.
    """

    def __init__(self, root: Path = Path("/sys")) -> None:
        zones = sorted((root / "class/powercap").glob("intel-rapl:*"))
        named = [(zone, _text(zone / "name")) for zone in zones]
        self._zones = [zone for zone, name in named if name.startswith("package") or name == "dram"]
        if not self._zones:
            raise UnavailableError(
                "RAPL needs package counters",
                got="none",
                where=root / "class/powercap",
                fix="Virtual machines and other processors have none; energy is modelled then",
            )
        try:
            self._ranges = {zone: int(_read(zone / "max_energy_range_uj")) for zone in self._zones}
            self._last = {zone: int(_read(zone / "energy_uj")) for zone in self._zones}
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"RAPL counters must be readable ({error})",
                where=self._zones[0],
                fix="Run as root, or let an administrator give read access to energy_uj",
            ) from error
        self._total_uj = 0
        self._lock = threading.Lock()
        self.source = "RAPL: " + ", ".join(_text(zone / "name") for zone in self._zones)

    def start(self) -> Running:
        """See `Meter.start`."""
        return _Span(self._joules, lambda joules: Energy(joules=joules, kind="measured", source=self.source))

    def _joules(self) -> float:
        with self._lock:
            for zone in self._zones:
                now = int(_read(zone / "energy_uj"))
                # The counter restarts from 0 after its range.
                self._total_uj += (now - self._last[zone]) % (self._ranges[zone] + 1)
                self._last[zone] = now
            return self._total_uj / 1e6


@final
class NvmlMeter:
    """Energy counters of all NVIDIA GPUs (Volta and later), through the package ``nvidia-ml-py``.

    Raises:
        UnavailableError: No package, no driver, no GPU, or one without a counter.
    """

    def __init__(self) -> None:
        try:
            pynvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise UnavailableError("NVML needs the package nvidia-ml-py", fix="pip install nvidia-ml-py") from error
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            names = [_decoded(pynvml.nvmlDeviceGetName(device)) for device in self._devices]
            self._joules()
        except pynvml.NVMLError as error:
            raise UnavailableError(f"NVML must have GPUs with energy counters ({error})") from error
        if not self._devices:
            raise UnavailableError("NVML must have GPUs with energy counters", got="no GPU")
        self.source = "NVML: " + ", ".join(names)

    def start(self) -> Running:
        """See `Meter.start`."""
        return _Span(self._joules, lambda joules: Energy(joules=joules, kind="measured", source=self.source))

    def _joules(self) -> float:
        counters = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(device) for device in self._devices]
        return float(sum(counters)) / 1e3


@final
class InaMeter:
    """INA3221 current sensors as on Jetson boards: power is sampled in a thread and integrated (trapezoids).

    Reads the rail that everything hangs on where the board names one, else the sum of all rails.

    Args:
        root: Usually ``/sys``.
        period_s: Time between samples; peaks shorter than this are not seen.

    Raises:
        UnavailableError: No sensor.
    """

    def __init__(self, root: Path = Path("/sys"), *, period_s: float = 0.02) -> None:
        rails = dict([*_hwmon_rails(root), *_iio_rails(root)])
        total = [name for name in _TOTAL_RAILS if name in rails]
        self._rails = [rails[total[0]]] if total else list(rails.values())
        if not self._rails:
            raise UnavailableError(
                "INA needs sensors of an INA3221",
                got="none",
                where=root / "bus/i2c/drivers",
                fix="Jetson boards have it",
            )
        self._period_s = period_s
        self.source = "INA3221: " + (total[0] if total else "sum of " + ", ".join(rails))

    def start(self) -> Running:
        """See `Meter.start`."""
        return _Sampled(self._watts, self._period_s, self.source)

    def _watts(self) -> float:
        return sum(rail() for rail in self._rails)


@final
class _Sampled:
    """Power integrated over time by a thread of its own, until it is stopped."""

    def __init__(self, watts: Callable[[], float], period_s: float, source: str) -> None:
        self._watts, self._period_s, self._source = watts, period_s, source
        self._joules = 0.0
        self._at, self._power = time.monotonic(), watts()
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="ina-meter", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        power, now = self._watts(), time.monotonic()
        with self._lock:
            self._joules += (power + self._power) / 2 * (now - self._at)
            self._at, self._power = now, power

    def stop(self) -> Energy:
        if not self._done.is_set():
            self._done.set()
            self._thread.join()
        self._sample()
        return Energy(joules=self._joules, kind="measured", source=self._source)


@final
class ModelledMeter:
    """No meter: this process's CPU time and the clock, times the watts of a power model.

    Args:
        power: The model.
        cpus: CPUs that draw its active power together.
        clock: For elapsed time.
        cpu_s: CPU seconds of this process so far; another one in tests.
    """

    def __init__(
        self, power: Power, cpus: float, *, clock: Clock | None = None, cpu_s: Callable[[], float] = time.process_time
    ) -> None:
        self._power, self._cpus, self._cpu_s = power, cpus, cpu_s
        self._clock: Clock = clock or SystemClock()
        self.source = f"power model: {power.source}"

    def start(self) -> Running:
        """See `Meter.start`."""
        return _Span(self._joules, lambda joules: Energy(joules=joules, kind="modelled", source=self.source))

    def _joules(self) -> float:
        busy = self._cpu_s() / self._cpus
        return self._power.idle_w * self._clock.now_ns() / 1e9 + (self._power.active_w - self._power.idle_w) * busy


def open_meters(power: Power | None = None, cpus: float = 1.0, *, root: Path = Path("/sys")) -> tuple[Meter, ...]:
    """Every meter that this machine has; they cover different parts, so that their figures add up.

    An INA sensor on a board's main rail covers all, so that it is the only one where it is there.

    Args:
        power: Model to fall back to.
        cpus: CPUs that the model's active power is for.
        root: Usually ``/sys``.

    Returns:
        Measuring meters; else the modelled one; else none.
    """
    try:
        return (InaMeter(root),)
    except UnavailableError:
        pass
    found: list[Meter] = []
    for kind in (lambda: RaplMeter(root), NvmlMeter):
        try:
            found.append(kind())
        except UnavailableError:
            continue
    if not found and power is not None:
        found.append(ModelledMeter(power, cpus))
    return tuple(found)


def _hwmon_rails(root: Path) -> Sequence[tuple[str, Callable[[], float]]]:
    """Rails as the kernel's hwmon shows them: ``in1_label``, ``in1_input`` in mV, ``curr1_input`` in mA."""
    rails = []
    for label in sorted((root / "bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*/in[1-3]_label")):
        channel = label.name[2]
        current = label.with_name(f"curr{channel}_input")
        if current.exists():
            rails.append((_text(label), _product(label.with_name(f"in{channel}_input"), current)))
    return rails


def _iio_rails(root: Path) -> Sequence[tuple[str, Callable[[], float]]]:
    """Rails as older boards' drivers show them: ``rail_name_0`` and ``in_power0_input`` in mW."""
    rails = []
    for label in sorted((root / "bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name_[0-2]")):
        power = label.with_name(f"in_power{label.name[-1]}_input")
        if power.exists():
            rails.append((_text(label), _milliwatts(power)))
    return rails


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    return lambda: int(_read(millivolts)) * int(_read(milliamperes)) / 1e6


def _milliwatts(path: Path) -> Callable[[], float]:
    return lambda: int(_read(path)) / 1e3


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii")


def _text(path: Path) -> str:
    try:
        return _read(path).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _decoded(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
