"""The published table of models: every row follows from the stored replays, and what is not refused is within 1e-5."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def test_rows_of_the_page_follow_from_the_stored_replays(program: Callable[[str], ModuleType]) -> None:
    benchmark = program("benchmarks/training_models.py")
    figures = json.loads((ROOT / "docs/results/training-models.json").read_text(encoding="utf-8"))["figures"]
    page = (ROOT / "docs" / "training" / "models.md").read_text(encoding="utf-8")
    assert "\n".join(benchmark.rows(figures)) in page
    for case in figures.values():
        assert "refused" in case or max(case["loss_error"], case["weight_error"]) < 1e-5
