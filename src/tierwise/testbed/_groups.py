"""Control groups, version 1 and 2: where this process may make them, and a group with a limit on CPU time or memory."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import final

from tierwise._errors import UnavailableError
from tierwise.testbed._links import Availability
from tierwise.testbed._run import groups_left, new_run_name, remove_group

__all__ = ["CONTROLLERS", "ControlGroups"]

CONTROLLERS = ("cpu", "memory")
# The shortest quota the kernel accepts, and the shortest period used: the shorter it is, the shorter the work that
# a quota slows down evenly.
_QUOTA_US = 1000
_PERIOD_US = 5000


def _mounts(version: int) -> dict[str, Path]:
    """Mount point of each controller's hierarchy; version 2 has one for all."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
            _, point, kind, options, *_ = line.split()
            if version == 2 and kind == "cgroup2":
                found |= dict.fromkeys(CONTROLLERS, Path(point))
            elif version == 1 and kind == "cgroup":
                found |= {name: Path(point) for name in CONTROLLERS if name in options.split(",")}
    return found


def _own_path(version: int, controller: str) -> str:
    """This process's group inside the controller's hierarchy."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(",") if version == 1 else not controllers:
                return path
    return "/"


def _ancestry(mount: Path, path: str) -> Iterator[Path]:
    """This process's group and those above it; the mount itself last (all there is to see inside a container)."""
    own = mount / path.strip("/")
    if path.strip("/") and ".." not in own.parts and own.is_dir():
        yield own
        yield from (above for above in own.parents if above.is_relative_to(mount) and above != mount)
    yield mount


def _make(parent: Path, name: str, version: int, controller: str) -> Path:
    """A group for a run under ``parent`` whose children can have limits of ``controller``; OSError when not."""
    if version == 2 and controller not in (parent / "cgroup.controllers").read_text("ascii").split():
        raise OSError(errno.ENOTSUP, f"its hierarchy has no {controller} controller")
    group = parent / name
    group.mkdir()
    try:
        if version == 2:
            if controller not in (group / "cgroup.controllers").read_text("ascii").split():
                # Allowed where this group holds no processes, and always at the root.
                (parent / "cgroup.subtree_control").write_text(f"+{controller}", "ascii")
            (group / "cgroup.subtree_control").write_text(f"+{controller}", "ascii")
    except OSError:
        remove_group(group)
        raise
    return group


@final
class ControlGroups:
    """One version of control groups, as far as this process may use it.

    Args:
        version: 1 or 2.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self._mounts = _mounts(version)

    @property
    def name(self) -> str:
        """``cgroup-v1`` or ``cgroup-v2``."""
        return f"cgroup-v{self.version}"

    def availability(self, controller: str) -> Availability:
        """Whether limits of ``controller`` can be set; asks by making a group and removing it."""
        if controller not in self._mounts:
            return Availability(
                ok=False,
                reason=f"no {self.name} hierarchy is mounted with {controller}",
                remedy="The other version will do",
            )
        name = new_run_name()
        try:
            remove_group(self._run_group(name, controller))
        except UnavailableError as error:
            return Availability(
                ok=False,
                reason=str(error.got),
                remedy="Run as root, or where systemd delegates: systemd-run --user --scope -p Delegate=yes",
            )
        return Availability(ok=True, reason=f"groups with {controller} limits can be made")

    def sweep(self) -> list[Path]:
        """Remove the groups of dead runs; returns what was removed."""
        parents = {
            parent for name, mount in self._mounts.items() for parent in _ancestry(mount, _own_path(self.version, name))
        }
        return [group for parent in parents for group in groups_left(parent) if remove_group(group)]

    @contextlib.contextmanager
    def limited(self, run: str, tier: str, controller: str, amount: float) -> Iterator[Path]:
        """A group of tier ``tier`` with a limit; removed at the end, with whatever still runs in it.

        Args:
            run: Name of the run.
            tier: Name of the tier.
            controller: ``cpu`` (amount in CPUs) or ``memory`` (amount in bytes).
            amount: The limit.

        Raises:
            UnavailableError: The kernel refuses the group or the limit.
        """
        try:
            parent = self._run_group(run, controller)
        except OSError as error:
            raise UnavailableError(f"{self.name} must offer {controller} limits", got=str(error)) from error
        group = parent / tier
        try:
            group.mkdir(exist_ok=True)
            for name, text in self._limits(controller, amount).items():
                (group / name).write_text(text, "ascii")
        except OSError as error:
            remove_group(group)
            raise UnavailableError(
                f"the {controller} limit of tier {tier} must be accepted", got=str(error), where=group
            ) from error
        try:
            yield group
        finally:
            remove_group(group)
            # The last tier takes the run's own group along.
            with contextlib.suppress(OSError):
                parent.rmdir()

    def _enable(self, group: Path, controller: str) -> None:
        """Let the children of an existing version 2 group have limits of another controller too."""
        if self.version == 2:
            (group / "cgroup.subtree_control").write_text(f"+{controller}", "ascii")

    def _limits(self, controller: str, amount: float) -> dict[str, str]:
        if controller == "memory":
            name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
            return {name: str(int(amount))}
        period_us = max(_PERIOD_US, round(_QUOTA_US / amount))
        quota_us = max(_QUOTA_US, round(period_us * amount))
        if self.version == 2:
            return {"cpu.max": f"{quota_us} {period_us}"}
        return {"cpu.cfs_period_us": str(period_us), "cpu.cfs_quota_us": str(quota_us)}

    def _run_group(self, run: str, controller: str) -> Path:
        """The run's group, made in the nearest place where it can have limits."""
        refused: OSError | None = None
        for parent in _ancestry(self._mounts[controller], _own_path(self.version, controller)):
            try:
                return _make(parent, run, self.version, controller)
            except FileExistsError:
                self._enable(parent / run, controller)
                return parent / run
            except OSError as error:
                refused = error
        reason = None if refused is None else refused.strerror
        raise UnavailableError(f"a {self.name} group with {controller} limits must be allowed", got=reason)
