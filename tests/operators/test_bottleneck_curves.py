"""The published curves of bottlenecks: every row that docs/bottlenecks.md shows is made anew from the stored file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted((ROOT / "docs" / "results").glob("bottlenecks-*.json"))
PAGE = ROOT / "docs" / "bottlenecks.md"


@pytest.fixture(scope="module")
def summary(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("benchmarks/bottlenecks_summary.py")


def _task(path: Path) -> str:
    return path.stem.removeprefix("bottlenecks-")


@pytest.mark.parametrize("path", STORED, ids=_task)
def test_rows_of_the_page_follow_from_the_stored_answers(path: Path, summary: ModuleType) -> None:
    cells = summary.read_cells(_task(path))
    made = {row for table in summary.TABLES for row in table(cells)}
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {_task(path)}\n")
    shown = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert shown, "the page has a section for each stored file"
    assert [row for row in shown if row not in made] == []


@pytest.mark.parametrize("path", STORED, ids=_task)
def test_stored_accuracies_are_those_of_the_stored_answers(path: Path, summary: ModuleType) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["environment"]
    cells = summary.read_cells(_task(path))
    items = summary.item_count(cells["whole"])
    for name, cell in cells.items():
        assert summary.right(cell, items).mean() == pytest.approx(cell["test"]["accuracy"], abs=1e-9), name


def test_bytes_at_an_accuracy_are_read_between_points(summary: ModuleType) -> None:
    curve = [(300.0, 0.8), (100.0, 0.5), (200.0, 0.6)]
    assert summary.bytes_at(curve, 0.7) == pytest.approx(250)
    assert summary.bytes_at(curve, 0.4, most=True) == 100
    assert summary.bytes_at(curve, 0.4) is None, "such a curve was not measured there"
    assert summary.bytes_at(curve, 0.9) is None
    assert summary.bytes_at([], 0.5) is None
