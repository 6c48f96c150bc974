"""The decision table for a terminal."""

from __future__ import annotations

from tierwise._units import format_bytes, format_frac, format_seconds
from tierwise.measure import MIN_P99_SAMPLES
from tierwise.report._rows import DecisionRow, decision_rows
from tierwise.report._verdict import verdict
from tierwise.study import StudyData

__all__ = ["text_table"]

_HEADS = ("", "strategy", "p50", "95 % interval", "p90", "p99", "correct", "up", "size", "cold", "errors")
_LEFT = {0, 1}
_NONE = "-"


def text_table(data: StudyData) -> str:
    """The decision table and the verdict as plain aligned text, the fastest first; readable without colour.

    Columns in which no strategy has a figure are left out. ``*`` marks the Pareto front, ``>`` the fastest of its reach
    that loses no accuracy.
    """
    rows = decision_rows(data)
    cells = [_HEADS, *(_cells(row) for row in rows)]
    empty = {i for i in range(2, len(_HEADS)) if all(line[i] in (_NONE, "") for line in cells[1:])}
    # Errors are worth a column only where there are some.
    if not any(row.errors for row in rows):
        empty.add(len(_HEADS) - 1)
    kept = [i for i in range(len(_HEADS)) if i not in empty]
    widths = {i: max(len(line[i]) for line in cells) for i in kept}
    lines = [
        "  ".join(line[i].ljust(widths[i]) if i in _LEFT else line[i].rjust(widths[i]) for i in kept).rstrip()
        for line in cells
    ]
    notes = ["* on the Pareto front of latency and accuracy", "> fastest of its reach that loses no accuracy"]
    if rows and all(row.p99 is None for row in rows):
        most = max(row.answered for row in rows)
        notes.append(f"no p99: it needs {MIN_P99_SAMPLES} answered requests a strategy, there are {most}")
    said = ["".join(words.text for words in sentence) for sentence in verdict(data, rows)]
    return "\n".join([*lines, "", *notes, "", *(_plain(sentence) for sentence in said)])


def _cells(row: DecisionRow) -> tuple[str, ...]:
    ends = _NONE
    if row.p50:
        pair = [format_seconds(end) if end is not None else "open" for end in (row.p50.low_s, row.p50.high_s)]
        ends = " .. ".join(pair)
    return (
        ("*" if row.on_front else " ") + (">" if row.best_of_reach else " "),
        _plain(row.strategy),
        format_seconds(row.p50.value_s) if row.p50 else _NONE,
        ends,
        format_seconds(row.p90.value_s) if row.p90 else _NONE,
        format_seconds(row.p99.value_s) if row.p99 else _NONE,
        format_frac(row.accuracy.value) if row.accuracy else _NONE,
        format_bytes(row.bytes_up) if row.bytes_up else _NONE,
        format_bytes(row.artifact_bytes) if row.artifact_bytes is not None else _NONE,
        format_seconds(row.cold_s) if row.cold_s is not None else _NONE,
        f"{row.errors} of {row.requests}" if row.errors else "",
    )


def _plain(text: str) -> str:
    """Without control characters: a name must not move the cursor of somebody's terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
