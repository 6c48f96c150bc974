"""The walls of the house that a test can see from outside."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "onnx", "onnxscript", "sklearn", "scipy", "altair"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "room",
    [
        "",
        ".artifact",
        ".measure",
        ".topology",
        ".wire",
        ".runtime",
        ".planner",
        ".testbed",
        ".training",
        ".cli",
        ".study",
    ],
)
def test_importing_a_room_of_the_node_brings_nothing_heavy(room: str) -> None:
    assert modules_after(f"import tierwise{room}") & HEAVY == set()


def test_torch_is_capped_wherever_it_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any(need.startswith("torch") for need in project["dependencies"])
    for extra, needs in project["optional-dependencies"].items():
        drags = [n for n in needs if n.split(">")[0].split("=")[0] in {"torch", "transformers", "torch-pruning"}]
        if drags:
            assert "torch>=2.8,<2.14" in needs, f"extra {extra} must cap torch beside {drags}"


def test_every_exported_name_exists_and_has_a_docstring() -> None:
    code = """
import importlib, inspect, pkgutil, tierwise
for room in [m.name for m in pkgutil.iter_modules(tierwise.__path__) if m.ispkg]:
    module = importlib.import_module("tierwise." + room)
    assert module.__doc__, room
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, room + "." + name
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
