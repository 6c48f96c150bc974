"""The files to run a node with say what the program and the system understand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tierwise._config import load_toml
from tierwise.runtime import NodeMetrics, NodeSpec

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_configuration_is_a_nodes() -> None:
    spec = load_toml(_DEPLOY / "node.toml", NodeSpec)
    assert spec.repository == "/var/lib/tierwise"
    assert spec.observability.metrics_listen == "0.0.0.0:8000"


def test_alerts_watch_metrics_that_there_are() -> None:
    metrics = NodeMetrics("edge")
    metrics.forwarded("a:1", "cloud", 0.01, 1, 1)
    metrics.refused("exhausted")
    metrics.answered("m", "1", 0.1, [("edge", "queue", 1)], 1, 1, 1)
    told = metrics.exposition().decode()
    named = set(re.findall(r"tierwise_\w+", (_DEPLOY / "alerts.yml").read_text()))
    assert named
    assert {name for name in named if not re.search(rf"^{name}[{{ ]", told, re.MULTILINE)} == set()


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "tierwise-node.service"
    # The program need not be installed here for the unit to be right.
    unit.write_text((_DEPLOY / "tierwise-node.service").read_text().replace("/opt/tierwise/bin/tierwise", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    # A system without systemd running lacks other units; of this one not a word must be said.
    assert "tierwise-node" not in done.stderr, done.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, check=False
    )
    found = re.search(r"exposure level.*: ([\d.]+)", rated.stdout)
    if found is None:
        pytest.skip("this systemd-analyze rates no files")
    assert float(found[1]) <= 1.5


def test_the_container_takes_what_there_is_and_is_not_root() -> None:
    text = (_DEPLOY / "Containerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (_DEPLOY.parent / source).exists(), source
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    assert text.index("\nUSER ") < text.index("\nENTRYPOINT ")


def test_the_health_check_tells_a_node_from_none() -> None:
    command = [sys.executable, "-m", "tierwise", "node", "--listen", "127.0.0.1:0", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        address = node.stdout.readline().split()[-1]
        check = [sys.executable, str(_DEPLOY / "health.py"), address]
        assert subprocess.run(check, check=False).returncode == 0
        node.terminate()
        assert node.wait(10) == 0
        assert subprocess.run(check, check=False).returncode == 1
