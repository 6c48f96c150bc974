"""The published transfers: means, differences and the page's rows are made anew from the stored answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
STORED = json.loads((ROOT / "docs" / "results" / "training-transfers.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "training" / "accuracy.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def summary(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("benchmarks/training_transfers_summary.py")


@pytest.mark.parametrize("stored", STORED["transfers"], ids=lambda stored: stored["transfer"])
def test_figures_and_rows_follow_from_the_stored_answers(stored: dict[str, Any], summary: ModuleType) -> None:
    made = json.loads(json.dumps(summary.figures(stored, stored["cells"])))
    assert made == {name: stored[name] for name in made}
    assert "\n".join(summary.rows(stored)) in PAGE


@pytest.mark.parametrize("stored", STORED["transfers"], ids=lambda stored: stored["transfer"])
def test_accuracy_is_the_share_of_right_answers_and_only_chosen_rates_answered(stored: dict[str, Any]) -> None:
    for cell in stored["cells"]:
        if "right" in cell:
            packed = np.frombuffer(base64.b64decode(cell["right"]), np.uint8)
            assert np.unpackbits(packed)[: stored["test_items"]].mean() == pytest.approx(cell["test"])
            assert cell["rate"] == stored["rates"][cell["method"]]


def test_rates_are_the_best_on_validation() -> None:
    for stored in STORED["transfers"]:
        for method, rate in stored["rates"].items():
            tried = {c["rate"]: c["validation"] for c in stored["cells"] if (c["method"], c["seed"]) == (method, 0)}
            assert len(tried) >= 3
            assert tried[rate] == max(tried.values())
