"""Deploying a study's strategy as a user does it: the command line, the printed program, paths to choose from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tierwise.measure import Silent
from tierwise.runtime import load_paths
from tierwise.study import (
    client_calls,
    deploy_plan,
    plan_deployment,
)
from tierwise.study._golden import expected_outputs

from .conftest import CUT, ENCODING, WHOLE, Node, tiers

Tierwise = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def toml(nodes: tuple[Node, Node], tmp_path: Path) -> Path:
    """The topology file of both nodes."""
    text = 'name = "t"\n'
    for tier, node in zip(("mobile", "edge"), nodes, strict=True):
        text += f'[[tiers]]\nname = "{tier}"\ncpus = 1.0\nmemory_bytes = 1000000000\naddress = "{node.address}"\n'
    text += '[[links]]\nlower = "mobile"\nupper = "edge"\nup_bps = 1e8\ndown_bps = 1e8\nrtt_s = 0.001\n'
    path = tmp_path / "t.toml"
    path.write_text(text)
    return path


@pytest.fixture
def tierwise(study: Path) -> Tierwise:
    """Runs a command beside the study."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tierwise", *words]
        return subprocess.run(command, cwd=study.parent, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_the_printed_program_works(study: Path, nodes: tuple[Node, Node], tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason="the program uses tritonclient")
    plan = plan_deployment(study, CUT, tiers(nodes[0].address, nodes[1].address), "digits")
    deploy_plan(plan, Silent(), drain_s=0)
    Image.fromarray(plan.golden["payload"][0, :, :, 0]).save(tmp_path / "picture.png")
    command, program = client_calls(plan)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed = [float(word) for word in done.stdout.replace("[", " ").replace("]", " ").split()]
    np.testing.assert_allclose(printed, expected_outputs(plan.artifact, plan.golden)["y"][0], rtol=1e-4)
    words = [sys.executable, "-m", *command.split()]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0


def test_the_command_line_shows_deploys_and_takes_back(
    tierwise: Tierwise, nodes: tuple[Node, Node], toml: Path
) -> None:
    shown = tierwise("deploy", "study", CUT, "--topology", str(toml), "--name", "m", "--dry-run").stdout
    for words in ["runs segment 0, forwards to", "runs segment 1", "the name is free", "estimated time"]:
        assert words in shown
    assert nodes[0].models() == nodes[1].models() == []
    done = tierwise("deploy", "study", CUT, "--topology", str(toml), "--name", "m")
    assert done.returncode == 0, done.stderr
    assert f"tierwise infer m picture.png --node {nodes[0].address}" in done.stdout
    assert nodes[0].models() == ["m"]
    assert tierwise("undeploy", "m").stdout.startswith("m was taken off mobile (")
    assert nodes[0].models() == nodes[1].models() == []
    again = tierwise("undeploy", "study", "m")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    nodes[1].process.kill()
    nodes[1].process.wait(10)
    failed = tierwise("deploy", "study", CUT, "--topology", str(toml))
    assert failed.returncode == 5
    assert f"tier edge at {nodes[1].address}" in failed.stderr.splitlines()[-1]
    assert nodes[0].models() == []


def test_several_strategies_become_paths_that_infer_chooses_from(
    tierwise: Tierwise, nodes: tuple[Node, Node], toml: Path, tmp_path: Path
) -> None:
    done = tierwise("deploy", "study", CUT, WHOLE, "--topology", str(toml), "--paths-out", "paths.toml")
    assert done.returncode == 0, done.stderr
    assert "tierwise infer --paths paths.toml" in done.stdout
    paths = load_paths(tmp_path / "paths.toml")
    assert [(path.name, path.link, path.probe) for path in paths.paths] == [
        (CUT, "mobile to edge", nodes[1].address),
        (WHOLE, None, None),
    ]
    assert paths.input == ENCODING
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "picture.png")
    asked = tierwise("infer", "--paths", "paths.toml", "picture.png")
    assert f"made by {CUT} (chosen)\npath    mobile > edge\n" in asked.stdout, asked.stderr
    nodes[1].process.kill()
    nodes[1].process.wait(10)
    asked = tierwise("infer", "--paths", "paths.toml", "picture.png", "--json")
    told = json.loads(asked.stdout)
    assert (told["made_by"], told["why"], told["path"]) == (WHOLE, "fallback: failed (UNAVAILABLE)", ["mobile"])
    for words, said in [
        (("deploy", "study", CUT, WHOLE, "--topology", str(toml), "--name", "m"), "one strategy can be given a --name"),
        (("deploy", "study", CUT, CUT, "--topology", str(toml)), "named once"),
        (("deploy", "study", CUT, "--topology", str(toml), "--paths-out", "no/p.toml"), "no: the folder must exist"),
        (("infer", "m", "picture.png", "--paths", "paths.toml"), "no MODEL is named"),
        (("infer", "m", "picture.png", "--deadline", "1"), "--deadline needs --paths"),
    ]:
        refused = tierwise(*words)
        assert refused.returncode == 2
        assert said in refused.stderr
