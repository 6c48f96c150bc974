"""Short forms of benchmarks/faults: processes killed, strangers at the doors, two minutes of everything at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "faults"

pytestmark = pytest.mark.emulation


def run(program: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, FOLDER / program, *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("case", ["mobile serving", "edge loading", "client loading"])
def test_a_killed_process_costs_no_wrong_answer_and_no_acknowledged_load(case: str) -> None:
    found: dict[str, Any] = json.loads(run("kill.py", "--kills", "2", "--only", case))[case]
    assert (found["wrong"], found["loads"]["lost"]) == (0, 0), found
    assert found["loads"]["acknowledged"] + found["loads"]["cut off"] >= 4
    assert found["answered"] > 100
    # Nobody but those who asked a dead node went without an answer.
    assert bool(found["unanswered"]) == (case != "client loading"), found


def test_strangers_harm_neither_the_node_nor_its_clients() -> None:
    lines = run("strangers.py", "--requests", "600", "--idle", "1200", "--slow", "40", "--seconds", "3").splitlines()
    found: dict[str, Any] = {name: one for line in lines for name, one in json.loads(line).items()}
    assert set(found) == {"nobody", "bad requests", "random bytes", "slow", "idle"}
    assert found["bad requests"]["requests"] == 600
    assert found["idle"]["connections"] == 2400
    assert found["idle"]["new_clients"] == {"grpc_live": True, "rest": {"200": 20}}
    for one in found.values():
        assert all(good["answered"] > 20 for good in one["good"].values()), found


def test_two_minutes_of_everything_leave_the_node_as_it_was() -> None:
    found: dict[str, Any] = json.loads(run("soak.py", "--minutes", "2"))
    assert found["samples"] == 120
    assert found["loads"] == 240
    assert found["bad_requests"] > 1500
    assert min(found["grpc"]["answered"], found["rest"]["answered"]) > 1000
