"""How many CPUs this process really has, and what their instructions are."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

__all__ = ["CpuGroup", "affinity_cpus", "cpu_flags", "cpu_groups", "isa", "quota_cpus", "usable_cpus"]

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> float:
    """CPUs this process may use: the smaller of its affinity and the tightest CPU quota above it.

    A quota below one CPU gives a fraction. Thread counts follow from this, never from the host's core count.

    Args:
        root: Where ``proc`` and ``sys`` are looked for; only tests give another.
    """
    quota = quota_cpus(root)
    allowed = float(affinity_cpus())
    return allowed if quota is None else min(allowed, quota)


def quota_cpus(root: Path = _ROOT) -> float | None:
    """The tightest CPU quota of this process's control groups and all groups above them, in CPUs.

    Both cgroup versions are read, since hosts mount both at once (``cpu.cfs_quota_us`` and ``cpu.max``).

    Args:
        root: As in `usable_cpus`.

    Returns:
        Quota divided by period; None where nothing limits.
    """
    quotas = [quota for group in cpu_groups(root) if (quota := group.quota_cpus) is not None]
    return min(quotas, default=None)


def isa() -> str:
    """Instruction set as far as it decides integer kernels: ``arm64``, ``x86-vnni`` or ``x86``."""
    if platform.machine().lower() in {"aarch64", "arm64"}:
        return "arm64"
    return "x86-vnni" if {"avx512_vnni", "avx_vnni"} & cpu_flags() else "x86"


def cpu_flags(root: Path = _ROOT) -> frozenset[str]:
    """Feature flags of the first CPU, as Linux names them; empty where the system does not say.

    Args:
        root: As in `usable_cpus`.
    """
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


@final
@dataclass(frozen=True)
class CpuGroup:
    """A control group that holds this process, directly or from above.

    Attributes:
        path: Its folder.
        version: 1 or 2.
    """

    path: Path
    version: int

    @property
    def quota_cpus(self) -> float | None:
        """Its own CPU quota; None where it has none."""
        if self.version == 2:
            quota, _, period = _read(self.path / "cpu.max").strip().partition(" ")
        else:
            quota = _read(self.path / "cpu.cfs_quota_us").strip()
            period = _read(self.path / "cpu.cfs_period_us").strip()
        try:
            share = int(quota) / int(period)
        except (ValueError, ZeroDivisionError):
            # No file, "max", or an empty file: no limit here.
            return None
        return share if share > 0 else None

    def stat(self) -> dict[str, int]:
        """Counters of ``cpu.stat`` by name (``nr_throttled`` and so on); empty where there are none."""
        pairs = (line.split() for line in _read(self.path / "cpu.stat").splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def cpu_groups(root: Path = _ROOT) -> tuple[CpuGroup, ...]:
    """The CPU control groups of this process, the innermost of each hierarchy first.

    Args:
        root: As in `usable_cpus`.
    """
    groups: list[CpuGroup] = []
    mounts = _cgroup_mounts(root)
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = [*line.split(":", 2), "", ""][:3]
        version = 2 if hierarchy == "0" and not controllers else 1
        if version == 1 and "cpu" not in controllers.split(","):
            continue
        for mount_root, mount_point in mounts.get(version, []):
            groups += [CpuGroup(folder, version) for folder in _upwards(root, mount_root, mount_point, path)]
    return tuple(groups)


def _cgroup_mounts(root: Path) -> dict[int, list[tuple[str, str]]]:
    """Per cgroup version, (path inside the hierarchy that is mounted, where it is mounted)."""
    mounts: dict[int, list[tuple[str, str]]] = {}
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            mounts.setdefault(2, []).append((fields[3], fields[4]))
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            mounts.setdefault(1, []).append((fields[3], fields[4]))
    return mounts


def _upwards(root: Path, mount_root: str, mount_point: str, path: str) -> list[Path]:
    """The folder of group ``path`` and those above it up to the mount point."""
    top = root / mount_point.lstrip("/")
    inside = PurePosixPath(path)
    if inside.is_relative_to(mount_root):
        inside = inside.relative_to(mount_root)
    # In a container without its own namespace the path may name a group that is not visible here; what is visible of
    # it is the mount point itself.
    folder = top / str(inside).lstrip("/")
    if ".." in inside.parts or not folder.is_dir():
        return [top]
    chain = [folder, *folder.parents]
    return chain[: chain.index(top) + 1] if top in chain else [top]


def affinity_cpus() -> int:
    """CPUs this process may be scheduled on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux and FreeBSD have it
        return os.cpu_count() or 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
