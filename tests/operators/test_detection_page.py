"""The published figures of detectors: every row that docs/detection.md shows is made anew from the stored cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def summary(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("benchmarks/detectors_summary.py")


def test_rows_of_the_page_follow_from_the_stored_cells(summary: ModuleType) -> None:
    assert json.loads((ROOT / "docs/results/detectors.json").read_text(encoding="utf-8"))["environment"]
    cells = summary.read_cells()
    made = {row for table in summary.TABLES for row in table(cells)}
    _, _, results = (ROOT / "docs/detection.md").read_text(encoding="utf-8").partition("\n## Results\n")
    shown = [line for line in results.splitlines() if line.startswith("|")]
    assert len(shown) > 2 * len(summary.TABLES)
    assert [row for row in shown if row not in made] == []


def test_what_is_removed_is_reckoned_seed_by_seed(summary: ModuleType) -> None:
    def cell(value: float) -> dict[str, dict[str, float]]:
        return {split: {"map": value} for split in ("validation", "test")}

    cells = {
        "whole": cell(0.40),
        "hnd 3ch seed 0": cell(0.30),
        "ghnd 3ch seed 0": cell(0.35),
        "hnd 3ch seed 1": cell(0.20),
        "ghnd 3ch seed 1": cell(0.35),
        "ghnd 3ch seed 2": cell(0.0),
    }
    _, _, *rows = summary.removed(cells)
    assert [row.split(" | ")[1] for row in rows] == ["0", "1", "all"], "a seed without its pair says nothing"
    assert [row.rstrip(" |").split(" | ")[-1] for row in rows] == ["50 %", "75 %", "67 %"]
