"""Published figures of the codecs: the page says what the stored measurements say, and they hold what is claimed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return dict(json.loads((DOCS / "results" / "codecs.json").read_text()))


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "codecs.md").read_text()


def speed_line(row: dict[str, Any]) -> str:
    """A row of the page's table of times."""
    kind, _, width = row["case"].partition(" ")
    name, bits = ("`prior`", f"{row['bits_per_value']:.2f}") if width else ("`affine`", kind.removeprefix("int"))
    times = {end: row["seconds"][f"tierwise {end}"] for end in ("encode", "decode", "both")}
    both = times["both"]
    return (
        f"| {name} | {bits} | {row['frame_bytes']:,} | {1e3 * times['encode']['value']:.2f} "
        f"| {1e3 * times['decode']['value']:.2f} "
        f"| {1e3 * both['value']:.2f} ({1e3 * both['low']:.2f} to {1e3 * both['high']:.2f}) |"
    )


def peer_line(row: dict[str, Any]) -> str:
    """A row of the page's table of CompressAI's coder."""
    ratios = [row["compressai_over_tierwise"][key] for key in ("encode", "decode", "both", "both, arrays")]
    cells = [f"{one['value']:.1f} ({one['low']:.1f} to {one['high']:.1f})" for one in ratios]
    sizes = [f"{row[key]:,}" for key in ("compressai_bytes", "payload_bytes")]
    return "| " + " | ".join([f"{row['bits_per_value']:.2f}", *sizes, *cells]) + " |"


def step_line(row: dict[str, Any]) -> str:
    """A row of the page's table of the library's coders."""
    cells = [f"{1e9 * seconds:.0f}" for seconds in row["seconds"].values()]
    return "| " + " | ".join([f"{row['entries']:,}", *cells]) + " |"


def rate_lines(stored: dict[str, Any]) -> list[str]:
    """The page's sentences on rates."""
    rows = stored["rate"]
    large = max(row["over_frac_most"] for row in rows if row["table_bytes"] > 1000)
    most = max(row["over_bytes_most"] for row in rows)
    around = sorted({row["frame_adds_bytes"] for row in rows})
    return [
        f"* Payloads above 1 kB are at most **{100 * large:.2f} %** larger than the tables' entropy of what they hold;",
        f"* payloads of any size at most **{most:.1f} bytes** larger;",
        f"* the frame adds {around[-1]} bytes.",
    ]


def test_the_page_says_what_was_measured(stored: dict[str, Any], page: str) -> None:
    lines = [speed_line(row) for row in stored["speed"]]
    lines += [peer_line(row) for row in stored["speed"] if "compressai_bytes" in row]
    lines += [step_line(row) for row in stored["library_step"]]
    for line in lines + rate_lines(stored):
        assert line in page.splitlines()


def test_rates_are_within_one_percent_above_a_kilobyte(stored: dict[str, Any]) -> None:
    large = [row for row in stored["rate"] if row["table_bytes"] > 1000]
    assert len(large) > 10
    assert all(row["over_frac_most"] < 0.01 for row in large)
    assert all(row["payload_bytes"] - row["table_bytes"] > -1 for row in stored["rate"])


def test_the_figures_come_with_their_machine(stored: dict[str, Any], page: str) -> None:
    assert stored["command"] in page
    assert stored["environment"]["cpu_model"]
