"""The circumstances of a measurement: everything that a reader needs to judge or repeat it."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import final

import msgspec

from tierwise import __version__
from tierwise.measure._cpus import affinity_cpus, cpu_flags, cpu_groups, isa, quota_cpus, usable_cpus

__all__ = ["Environment", "Throttling", "read_environment"]

_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
    "hypervisor",
)  # fmt: skip
_PACKAGES = ("grpcio", "msgspec", "numpy", "onnx", "onnxruntime", "pillow", "protobuf", "tokenizers", "torch")


@final
class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """What CPU quotas have done to this process's control groups since they were made.

    Attributes:
        periods: Quota periods that passed.
        throttled_periods: Periods in which the group ran out of quota.
        throttled_s: Seconds its threads stood still for that.
    """

    periods: int
    throttled_periods: int
    throttled_s: float


@final
class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """One machine at one time.

    Attributes:
        cpu_model: As the machine calls its processor.
        flags: Instruction-set extensions of interest that it has.
        isa: ``x86-vnni``, ``x86`` or ``arm64``.
        host_cpus: CPUs the operating system sees.
        affinity_cpus: CPUs this process may be scheduled on.
        quota_cpus: Tightest CPU quota above this process; None without one.
        usable_cpus: The smaller of the two.
        governor: Frequency governor of the first CPU; None where the machine does not say.
        throttling: Counters of the control group with the tightest quota; None where no group counts.
        memory_bytes: Memory of the machine; 0 where it does not say.
        memory_available_bytes: Of it, free for new use; 0 where the machine does not say.
        load_1min: Runnable processes, averaged over the last minute.
        versions: Package versions by name, Tierwise and Python among them.
        commit: Commit of the running source, with ``+`` where files were changed since; None outside a checkout.
        platform: Operating system and kernel.
        taken_at: When this was read, UTC, ISO 8601.
    """

    cpu_model: str
    flags: tuple[str, ...]
    isa: str
    host_cpus: int
    affinity_cpus: int
    quota_cpus: float | None
    usable_cpus: float
    governor: str | None
    throttling: Throttling | None
    memory_bytes: int
    memory_available_bytes: int
    load_1min: float
    versions: dict[str, str]
    commit: str | None
    platform: str
    taken_at: str


def read_environment() -> Environment:
    """The circumstances right now. Takes some ten milliseconds; never fails for what a machine does not tell."""
    memory = _memory_bytes()
    present = cpu_flags()
    return Environment(
        cpu_model=_cpu_model(),
        flags=tuple(flag for flag in _FLAGS if flag in present),
        isa=isa(),
        host_cpus=os.cpu_count() or 1,
        affinity_cpus=affinity_cpus(),
        quota_cpus=quota_cpus(),
        usable_cpus=usable_cpus(),
        governor=_first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        throttling=_throttling(),
        memory_bytes=memory.get("MemTotal", 0),
        memory_available_bytes=memory.get("MemAvailable", 0),
        load_1min=os.getloadavg()[0],
        versions=_versions(_PACKAGES),
        commit=_commit(Path(__file__).parent),
        platform=platform.platform(),
        taken_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Hardware", "Model"}:
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory_bytes() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0].rstrip(":"): 1024 * int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _throttling() -> Throttling | None:
    counted = [(group, group.stat()) for group in cpu_groups()]
    counted = [(group, stat) for group, stat in counted if "nr_throttled" in stat]
    if not counted:
        return None
    # The group with the tightest quota is the one that throttles; without any quota, the innermost.
    _, stat = min(counted, key=lambda entry: entry[0].quota_cpus or float("inf"))
    throttled_s = stat.get("throttled_time", 0) / 1e9 or stat.get("throttled_usec", 0) / 1e6
    return Throttling(
        periods=stat.get("nr_periods", 0), throttled_periods=stat["nr_throttled"], throttled_s=throttled_s
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version(), "tierwise": __version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit(folder: Path) -> str | None:
    """Commit of the checkout that ``folder`` is tracked in."""
    # An installed copy may lie inside somebody else's checkout; only a tracked file proves that this is ours.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10.0)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
