from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from tierwise._errors import InputError
from tierwise.report import scheme_rows, write_training_report
from tierwise.training import Held, Trace, Trial


def trial(scheme: str, rate: float, seed: int, validation: float, test: float, *, size: int, step_s: float) -> Trial:
    return Trial(
        task="digits",
        metric="accuracy",
        scheme=scheme,
        optimiser="adam",
        rate=rate,
        seed=seed,
        steps=60,
        batch=16,
        validation=validation,
        test=test,
        test_items=360,
        trained_values=100,
        memory_bytes=size,
        step_s=step_s,
        macs=1000,
    )


FULL = [
    trial("full", 0.1, 0, 0.70, 0.99, size=9_000_000, step_s=0.03),
    trial("full", 0.01, 0, 0.90, 0.88, size=9_000_000, step_s=0.03),
    trial("full", 0.01, 1, 0.91, 0.90, size=9_000_000, step_s=0.03),
]
SPARSE = [trial("sparse", 0.01, 0, 0.89, 0.895, size=1_000_000, step_s=0.01)]
WORSE = [trial("<worse> & last-1", 0.01, 0, 0.5, 0.5, size=2_000_000, step_s=0.02)]
TRACES = [
    Trace(scheme="full", live_bytes=tuple(range(0, 9000, 3)), largest=(Held(name="a", bytes=400, first=1, last=9),)),
    Trace(scheme="sparse", live_bytes=(5, 9, 2), largest=(Held(name="</script>", bytes=4, first=0, last=1),)),
]


def test_rates_are_chosen_by_validation_never_by_test() -> None:
    full, sparse, worse = scheme_rows([*FULL, *SPARSE, *WORSE])
    assert (full.rate, full.tests) == (0.01, (0.88, 0.90))
    assert full.test == pytest.approx(0.89)
    # Sparse is better by all three measures.
    assert [row.on_front for row in (full, sparse, worse)] == [False, True, False]


def test_page_is_whole_escaped_and_the_same_twice(tmp_path: Path) -> None:
    first = write_training_report([*FULL, *SPARSE, *WORSE], TRACES, tmp_path / "a" / "page.html").read_text("utf-8")
    assert first == write_training_report([*FULL, *SPARSE, *WORSE], TRACES, tmp_path / "b.html").read_text("utf-8")
    assert "&lt;worse&gt; &amp; last-1" in first
    assert "<worse>" not in first
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', first, re.DOTALL)
    assert found is not None
    charts = json.loads(found[1])["charts"]
    assert set(charts) == {
        "training-memory", "training-time", "training-timeline", "tensors-full", "tensors-sparse"
    }  # fmt: skip
    moments = charts["training-timeline"]["datasets"]["moments"]
    # Long traces are thinned, but never lose their peak.
    assert max(one["mb"] for one in moments if one["scheme"] == "full") == TRACES[0].peak_bytes / 1e6
    assert sum(one["scheme"] == "full" for one in moments) == 400


def test_what_cannot_be_shown_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs trials of one task, but got no trials"):
        write_training_report([], [], tmp_path / "page.html")
    other = msgspec.structs.replace(SPARSE[0], task="other")
    with pytest.raises(InputError, match="needs trials of one task"):
        write_training_report([*SPARSE, other], [], tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
