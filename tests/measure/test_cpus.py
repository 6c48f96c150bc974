from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tierwise.measure import isa, usable_cpus
from tierwise.measure._cpus import cpu_groups, quota_cpus
from tierwise.measure._environment import read_environment

V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_takes_the_tightest_quota_above(tmp_path: Path) -> None:
    root = machine(tmp_path, {
        "proc/self/cgroup": "0::/outer/inner\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/outer/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
    })  # fmt: skip
    assert quota_cpus(root) == 0.5
    assert usable_cpus(root) == 0.5
    assert [group.path.name for group in cpu_groups(root)] == ["inner", "outer", "cgroup"]


def test_version_1_is_read_too(tmp_path: Path) -> None:
    root = machine(tmp_path, {
        "proc/self/cgroup": "5:cpu,cpuacct:/pod\n4:memory:/other\n",
        "proc/self/mountinfo": V1.format(root="/"),
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/pod/cpu.stat": "nr_periods 7\nnr_throttled 3\nthrottled_time 2000000000\n",
    })  # fmt: skip
    assert quota_cpus(root) == 1.5
    assert cpu_groups(root)[0].stat()["nr_throttled"] == 3


def test_both_versions_at_once(tmp_path: Path) -> None:
    root = machine(tmp_path, {
        "proc/self/cgroup": "1:cpu:/a\n0::/b\n",
        "proc/self/mountinfo": V1.format(root="/") + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "),
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/unified/b/cpu.max": "25000 100000",
    })  # fmt: skip
    assert quota_cpus(root) == 0.25


def test_a_container_sees_its_own_group_at_the_mount_point(tmp_path: Path) -> None:
    # Without a cgroup namespace the path is the host's, and only the mount's root tells what is visible.
    root = machine(tmp_path, {
        "proc/self/cgroup": "3:cpu:/docker/abc\n",
        "proc/self/mountinfo": V1.format(root="/docker/abc"),
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "80000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    })  # fmt: skip
    assert quota_cpus(root) == 0.8


@pytest.mark.parametrize("content", ["", "max", "nonsense\n", "-1 100000", "5 0"])
def test_no_limit_where_none_can_be_read(tmp_path: Path, content: str) -> None:
    root = machine(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/cpu.max": content,
    })  # fmt: skip
    assert quota_cpus(root) is None
    assert usable_cpus(root) == len(os.sched_getaffinity(0))


def test_nothing_to_read_at_all(tmp_path: Path) -> None:
    assert quota_cpus(tmp_path) is None


def test_affinity_counts() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}]); from tierwise.measure import usable_cpus; print(usable_cpus())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(answer) <= 1.0


def test_environment_says_what_a_reader_needs() -> None:
    environment = read_environment()
    assert environment.isa == isa()
    assert environment.isa in {"x86", "x86-vnni", "arm64"}
    assert environment.usable_cpus <= environment.affinity_cpus <= environment.host_cpus
    assert environment.memory_bytes >= environment.memory_available_bytes > 0
    assert {"python", "tierwise", "numpy", "onnxruntime", "torch"} <= set(environment.versions)
    assert environment.cpu_model
    # A checkout knows its commit; a copy without one says so.
    inside = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    if inside.returncode == 0:
        assert environment.commit is not None
        assert environment.commit.rstrip("+") == inside.stdout.strip()
