"""Short forms of benchmarks/faults/links.py: links and nodes that fail under load."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tierwise.testbed import TunMeans

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "faults" / "links.py"
TUN = TunMeans().availability()


def figures(name: str, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, PROGRAM, "--only", name, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.removeprefix(name))
    return found


@pytest.mark.emulation
@pytest.mark.parametrize(
    "words", [("cut-proxy", "--cycles", "2"), ("cut-tun", "--cycles", "2"), ("kill", "--kills", "1")]
)
def test_every_request_is_answered_rightly_and_once(words: tuple[str, ...]) -> None:
    if words[0] == "cut-tun" and not TUN.ok:
        pytest.skip(TUN.reason)
    found = figures(*words)
    assert found["asked"] > 100
    assert (found["unanswered"], found["wrong"], found["answered_twice"]) == (0, 0, 0), found
    assert any(not by.startswith("local") for by in found["by"])
    assert any(by.startswith("local: fallback") for by in found["by"])


@pytest.mark.emulation
@pytest.mark.skipif(not TUN.ok, reason=TUN.reason)
def test_packets_lost_cost_no_answer() -> None:
    found = figures("loss", "--seconds", "4")
    assert found["asked"] > 20
    assert (found["unanswered"], found["wrong"], found["answered_twice"]) == (0, 0, 0), found
