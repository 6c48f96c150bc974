"""What docs/split.md quotes follows from the stored measurement."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "split.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("benchmarks/crossover/figures.py")


@pytest.fixture(scope="module")
def content(figures: ModuleType) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(figures.RESULT.read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("table", ["stages", "curve", "regions", "predictions", "picks"])
def test_every_line_of_a_table_is_in_the_text(figures: ModuleType, content: dict[str, Any], table: str) -> None:
    lines = getattr(figures, table)(content)
    assert len(lines) > 3
    assert [line for line in lines if line not in TEXT.splitlines()] == []


def test_the_cost_of_a_message_is_the_quoted_one(figures: ModuleType, content: dict[str, Any]) -> None:
    assert figures.fixed(content) in TEXT


def test_what_was_asked_for_is_met(figures: ModuleType, content: dict[str, Any]) -> None:
    assert all(one["same_class"] == one["items"] == 1000 for one in content["check"].values())
    assert max(one["largest_difference"] for one in content["check"].values()) == 0
    assert len(figures.held_out(content)) == 9
    median, _ = figures.summary(figures.errors(content, figures.held_out(content)))
    assert median < 0.1
    assert len(content["grid"]) == 60
    chosen = figures.fastest_picks(content)
    assert sum(one.near for one in chosen) >= 0.95 * len(chosen)
