"""What a run is called on this machine, and what dead runs have left behind.

Processes die with their owner and network namespaces with their processes. Only folders stay: control groups and the
one with the sockets. Their name says whose they are, so that the next run can take away what nobody owns any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["groups_left", "new_run_name", "owner_lives", "remove_group", "run_folder", "sweep_folders"]

# The PID namespace, the owner's PID and its start in clock ticks (a PID may be given away again), a random part.
_NAME = re.compile(r"^tierwise-(\d+)-(\d+)-(\d+)-[0-9a-f]{8}$")


def _pid_namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # no Linux
        return 0


def _started_ticks(pid: int) -> int | None:
    """Start of a living process in clock ticks since boot; 0 where the system does not say, None when it is gone."""
    try:
        # The command's name may hold anything, even spaces and parentheses; the fields go on after the last one.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
    return None if fields[0] in "ZX" else int(fields[19])


def new_run_name() -> str:
    """A name no other run on this machine has, and from which `owner_lives` can tell whether this process lives."""
    return f"tierwise-{_pid_namespace()}-{os.getpid()}-{_started_ticks(os.getpid())}-{secrets.token_hex(4)}"


def owner_lives(name: str) -> bool | None:
    """Whether the process that made ``name`` still runs; None when the name is not ours to judge."""
    match = _NAME.match(name)
    if match is None or int(match[1]) != _pid_namespace():
        return None
    return _started_ticks(int(match[2])) == int(match[3])


def _home() -> Path:
    """The folder for temporary files, unless its path is too long for a socket inside (108 bytes in all)."""
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) < 24 else Path("/tmp")


@contextlib.contextmanager
def run_folder(name: str) -> Iterator[Path]:
    """A folder for sockets with a path short enough for them, removed at the end."""
    folder = _home() / name
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_folders() -> list[Path]:
    """Remove the socket folders of dead runs of this user; returns what was removed."""
    removed = []
    for folder in _home().glob("tierwise-*"):
        with contextlib.suppress(OSError):
            if owner_lives(folder.name) is False and folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


def groups_left(parent: Path) -> list[Path]:
    """Control groups of dead runs under ``parent``."""
    with contextlib.suppress(OSError):
        return [group for group in parent.iterdir() if owner_lives(group.name) is False]
    return []


def remove_group(group: Path, *, patience_s: float = 2.0) -> bool:
    """Kill what is in a control group and below it, and remove it; False when it would not go."""
    give_up_s = time.monotonic() + patience_s
    while True:
        try:
            for child in [entry for entry in group.iterdir() if entry.is_dir()]:
                remove_group(child, patience_s=patience_s)
            for pid in (group / "cgroup.procs").read_text("ascii").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            group.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            # A process that was just killed leaves its group a moment later.
            if time.monotonic() > give_up_s:
                return False
            time.sleep(0.02)
        else:
            return True
