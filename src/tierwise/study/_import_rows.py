"""Rows of an import's two files, told apart by their columns: latencies by cell, accuracies by strategy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final, get_args

from tierwise._errors import InputError
from tierwise.planner import SubjectKind
from tierwise.study._table_file import Row, Table, normal

__all__ = ["ROLES", "Cell", "Judgement", "check_roles", "column", "needed", "read_accuracies", "read_latencies"]

_UNITS = {
    "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "milliseconds": 1e-3, "min": 60.0,
}  # fmt: skip

ROLES: Mapping[str, tuple[str, ...]] = {
    "latency": ("latency", "response_time", "time"),
    "strategy": ("strategy", "operator"),
    "tier": ("tier", "tiers", "placement"),
    "subject": ("subject", "model"),
    "kind": ("kind",),
    "block": ("block",),
    "bytes_up": ("bytes_up",),
    "bytes_down": ("bytes_down",),
    "metric": ("metric",),
    "value": ("value", "value_percent", "value_%"),
    "items": ("items",),
    "training_h": ("training_h",),
    "artifact_bytes": ("artifact_bytes",),
    "variant": ("variant",),
    "item": ("item",),
    "label": ("label",),
}
"""What a column can be, and the titles that say so by themselves."""


@final
@dataclass
class Cell:
    """Rows of one strategy on one placement for one subject, while they are read."""

    latency_s: list[float] = field(default_factory=list)
    block: list[str] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)


@final
@dataclass
class Judgement:
    """Accuracies of one strategy for one subject, on one placement or on any (empty)."""

    accuracies: dict[str, float] = field(default_factory=dict)
    items: float | None = None
    training_h: float | None = None
    artifact_bytes: float | None = None
    variant: str | None = None


def check_roles(columns: Mapping[str, str], *tables: Table) -> None:
    """Check what ``--columns`` says.

    Raises:
        InputError: An unknown role, or a title that no file has.
    """
    for role, title in columns.items():
        if role not in ROLES:
            raise InputError(f"a column's role must be one of {', '.join(ROLES)}", got=repr(role), where="--columns")
        if not any(normal(title) in table.titles for table in tables):
            have = "; ".join(f"{table.path.name}: {', '.join(table.titles.values())}" for table in tables)
            raise InputError(f"a column for {role} must be in a file ({have})", got=repr(title), where="--columns")


def column(table: Table, role: str, columns: Mapping[str, str]) -> str | None:
    """The normal title of the column that plays ``role``; None where the file has none."""
    if role in columns:
        named = normal(columns[role])
        if named in table.titles:
            return named
    return next((title for title in ROLES[role] if title in table.titles), None)


def needed(table: Table, role: str, columns: Mapping[str, str]) -> str:
    """As `column`.

    Raises:
        InputError: The file has none.
    """
    found = column(table, role, columns)
    if found is None:
        raise InputError(
            f"the file must have a column {role}",
            got=", ".join(table.titles.values()),
            where=table.path,
            fix=f"Name it with --columns {role}=TITLE",
        )
    return found


def _latency_column(table: Table, columns: Mapping[str, str], unit: str | None) -> tuple[str, float]:
    """The column of latencies and what one of its unit is in seconds."""
    if "latency" in columns:
        able = [needed(table, "latency", columns)]
    else:
        stems = "|".join(ROLES["latency"])
        able = [title for title in table.titles if re.fullmatch(rf"({stems})(_\w+)?", title)]
    if len(able) != 1:
        raise InputError(
            "the file must have one column of latencies, named like latency_ms",
            got=", ".join(table.titles[title] for title in able) or ", ".join(table.titles.values()),
            where=table.path,
            fix="Name it with --columns latency=TITLE",
        )
    tail = able[0].rpartition("_")[2]
    stated = tail if tail in _UNITS else None
    said = None if unit is None else normal(unit)
    if stated is not None and said is not None and _UNITS[stated] != _UNITS.get(said):
        raise InputError(f"--unit must not contradict column {table.titles[able[0]]!r}", got=unit, where=table.path)
    known = stated or said
    if known not in _UNITS:
        raise InputError(
            f"latencies must have a unit out of {', '.join(_UNITS)}, in the column's title or by --unit",
            got=repr(unit or table.titles[able[0]]),
            where=table.path,
        )
    return able[0], _UNITS[known]


def read_latencies(
    table: Table, columns: Mapping[str, str], unit: str | None
) -> tuple[dict[tuple[str, str, str], Cell], dict[str, SubjectKind]]:
    """Latencies by (subject, strategy, placement), and kinds by subject where the file says them.

    Raises:
        InputError: A missing column, no unit, or a wrong field.
    """
    strategy, tier, subject = (needed(table, role, columns) for role in ("strategy", "tier", "subject"))
    latency, seconds = _latency_column(table, columns, unit)
    kind, block, up, down = (column(table, role, columns) for role in ("kind", "block", "bytes_up", "bytes_down"))
    cells: dict[tuple[str, str, str], Cell] = {}
    kinds: dict[str, SubjectKind] = {}
    for row in table.rows:
        key = (row.name(subject), row.name(strategy), _placement(row, tier))
        cell = cells.setdefault(key, Cell())
        value = row.not_negative(latency)
        if value == 0:
            raise InputError(f"column {latency} must be positive", got=row.cells[latency].strip(), where=row.where)
        cell.latency_s.append(value * seconds)
        if block is not None:
            cell.block.append(row.name(block))
        if up is not None:
            cell.up.append(row.not_negative(up))
        if down is not None:
            cell.down.append(row.not_negative(down))
        if kind is not None:
            _same_kind(row, kind, key[0], kinds)
    return cells, kinds


def _same_kind(row: Row, title: str, subject: str, kinds: dict[str, SubjectKind]) -> None:
    text = row.name(title).casefold()
    known = {str(one): one for one in get_args(SubjectKind)}
    if text not in known or kinds.setdefault(subject, known[text]) != text:
        raise InputError(
            f"the kind must be one of {', '.join(known)}, and one for all rows of a subject",
            got=repr(text),
            where=row.where,
        )


def _placement(row: Row, title: str) -> str:
    text = row.name(title).casefold()
    tiers = [tier.strip() for tier in re.split(r"[|]" if "|" in text else r"-", text)]
    if len(set(tiers)) != len(tiers) or not all(re.fullmatch(r"[a-z][a-z0-9_ -]*", tier) for tier in tiers):
        raise InputError(
            "a tier must be a name (edge) or names from the device upward (mobile|edge)",
            got=repr(row.cells[title]),
            where=row.where,
        )
    return "|".join(tiers)


def read_accuracies(table: Table, columns: Mapping[str, str]) -> dict[tuple[str, str, str], Judgement]:
    """Accuracies by (subject, strategy, placement); the placement is empty where the file has no tiers.

    Raises:
        InputError: A missing column, a wrong field, or an accuracy given twice.
    """
    strategy, subject, metric, value = (
        needed(table, role, columns) for role in ("strategy", "subject", "metric", "value")
    )
    tier = column(table, "tier", columns)
    items, training, size, variant = (
        column(table, role, columns) for role in ("items", "training_h", "artifact_bytes", "variant")
    )
    percent = value.endswith(("percent", "%"))
    found: dict[tuple[str, str, str], Judgement] = {}
    for row in table.rows:
        key = (row.name(subject), row.name(strategy), _placement(row, tier) if tier else "")
        own = found.setdefault(key, Judgement())
        share = row.not_negative(value) / (100 if percent else 1)
        if share > 1:
            raise InputError(
                f"an accuracy must lie between 0 and {100 if percent else 1}",
                got=row.cells[value].strip(),
                where=row.where,
                fix="Title the column value_percent where it holds percent",
            )
        name = row.name(metric).casefold()
        if name in own.accuracies:
            raise InputError(
                "an accuracy must be given once", got=f"{name} of {key[1]} for {key[0]} again", where=row.where
            )
        own.accuracies[name] = share
        own.items = _once(row, items, own.items, whole=True)
        own.training_h = _once(row, training, own.training_h)
        own.artifact_bytes = _once(row, size, own.artifact_bytes, whole=True)
        own.variant = _one_name(row, variant, own.variant)
    return found


def _once(row: Row, title: str | None, known: float | None, *, whole: bool = False) -> float | None:
    """A figure that need not be there, and must not contradict what another row of the strategy says."""
    if title is None or not row.cells[title].strip():
        return known
    value = row.not_negative(title)
    if (whole and value % 1) or (known is not None and value != known):
        kind = "a whole number" if whole else "a number"
        raise InputError(
            f"column {title} must hold {kind}, the same in all rows of a strategy",
            got=row.cells[title].strip() + ("" if known is None else f" after {known:g}"),
            where=row.where,
        )
    return value


def _one_name(row: Row, title: str | None, known: str | None) -> str | None:
    """As `_once`, for a name."""
    if title is None or not row.cells[title].strip():
        return known
    name = row.name(title)
    if known not in (None, name):
        raise InputError(
            f"column {title} must hold one name in all rows of a strategy", got=f"{name} after {known}", where=row.where
        )
    return name
