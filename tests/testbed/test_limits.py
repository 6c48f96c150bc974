"""What a node is granted, and that the kernel holds it to that."""

import contextlib
import sys
import time
from pathlib import Path

import pytest

from tierwise._errors import InputError, UnavailableError
from tierwise.testbed import ControlGroups, DutyLimiter, QuotaLimiter, Spawner, all_limiters
from tierwise.testbed._limits import choose_limiters, memory_limit, whole_threads
from tierwise.testbed._run import new_run_name, remove_group
from tierwise.topology import Tier

MB = 10**6
VERSIONS = (1, 2)


def tier(cpus: float = 0.5, memory_bytes: int = 100 * MB) -> Tier:
    return Tier(name="mobile", cpus=cpus, memory_bytes=memory_bytes)


def groups_with(version: int, controller: str) -> ControlGroups:
    groups = ControlGroups(version)
    found = groups.availability(controller)
    if not found.ok:
        pytest.skip(f"{groups.name} {controller}: {found.reason}")
    return groups


@pytest.mark.parametrize(
    ("cpus", "threads"), [(0.1, 1), (1.0, 1), (1.9, 1), (16 * (2 / 16), 2), (1.9999999999, 2), (3.5, 3)]
)
def test_threads_are_whole_cpus_and_at_least_one(cpus: float, threads: int) -> None:
    assert whole_threads(cpus) == threads


@pytest.mark.parametrize(("cpus", "pace"), [(0.25, 0.25), (1.0, 1.0), (2.5, 1.0)])
def test_the_duty_cycle_paces_below_one_cpu_only(cpus: float, pace: float) -> None:
    with DutyLimiter().grant("run", tier(cpus)) as grant:
        assert (grant.pace_frac, grant.groups) == (pace, ())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_quota_is_in_force_and_gone_afterwards(version: int, tmp_path: Path) -> None:
    groups = groups_with(version, "cpu")
    burn = """
import time
used_s, end_s = time.process_time(), time.monotonic() + 0.5
while time.monotonic() < end_s:
    pass
print(time.process_time() - used_s)
"""
    with QuotaLimiter(groups).grant(new_run_name(), tier(0.2)) as grant, Spawner(tmp_path) as spawner:
        group = Path(grant.groups[0])
        child = spawner.start("burn", [sys.executable, "-I", "-S", "-c", burn], groups=[group])
        assert float(child.line(30.0)) < 0.2  # of 0.5 s it gets 0.1
    assert not group.exists()
    assert not group.parent.exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_more_memory_than_allowed_ends_the_process_and_the_error_says_so(version: int, tmp_path: Path) -> None:
    groups = groups_with(version, "memory")
    take = "import sys; blob = bytearray(200_000_000); print(len(blob))"
    with groups.limited(new_run_name(), "mobile", "memory", 100 * MB) as group, Spawner(tmp_path) as spawner:
        child = spawner.start("greedy", [sys.executable, "-I", "-S", "-c", take], groups=[group])
        with pytest.raises(UnavailableError, match="SIGKILL, as the kernel does when memory runs out"):
            child.line(30.0)
    assert not group.exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_removing_a_group_ends_what_runs_in_it(version: int, tmp_path: Path) -> None:
    groups = groups_with(version, "memory")
    with Spawner(tmp_path) as spawner, groups.limited(new_run_name(), "mobile", "memory", 100 * MB) as group:
        child = spawner.start("sleeper", ["sleep", "60"], groups=[group])
        until_s = time.monotonic() + 10.0
        while not (group / "cgroup.procs").read_text() and time.monotonic() < until_s:
            time.sleep(0.01)
        assert remove_group(group)
        assert not child.alive()


def test_memory_is_not_limited_where_no_group_can(tmp_path: Path) -> None:
    nothing = memory_limit([])
    assert nothing.name == "none"
    with nothing.limited("run", tier()) as groups:
        assert groups == ()


def test_the_duty_cycle_is_tried_first_and_always_there() -> None:
    assert choose_limiters(all_limiters(), None)[0].name == "duty"
    assert [one.name for one in choose_limiters(all_limiters(), "duty")] == ["duty"]


def test_an_unknown_limiter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="must be one of duty, cgroup-v2, cgroup-v1, but got 'nice'"):
        choose_limiters(all_limiters(), "nice")


def test_a_limiter_that_is_not_there_says_why_and_how_to_get_it() -> None:
    missing = [one for one in all_limiters() if not one.availability().ok]
    if not missing:
        pytest.skip("this machine has all limiters")
    with pytest.raises(UnavailableError, match=f"limiter {missing[0].name} must be available, but got .+\\. .+"):
        choose_limiters(all_limiters(), missing[0].name)


def test_asking_what_is_there_leaves_nothing_behind() -> None:
    for version in VERSIONS:
        groups = ControlGroups(version)
        for controller in ("cpu", "memory"):
            groups.availability(controller)
    for mount in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        with contextlib.suppress(OSError):
            assert not [entry for entry in mount.iterdir() if entry.name.startswith(new_run_name()[:-9])]
