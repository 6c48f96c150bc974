"""A table of the page as plain values: what the template prints is decided here and escaped there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Cell", "Column", "Table", "Tag", "named"]


@final
@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its header.
        numeric: Whether it is set flush right, in figures of equal width.
        unit: What stands under the title in small type: a unit or a reading hint.
        wide: Whether it holds sentences and must not become a narrow strip.
    """

    title: str
    numeric: bool = False
    unit: str = ""
    wide: bool = False


@final
@dataclass(frozen=True)
class Tag:
    """A small label in a cell.

    Attributes:
        text: What it says.
        kind: ``front``, ``best``, ``yes``, ``no`` or ``model``: its look.
    """

    text: str
    kind: str


@final
@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: First line.
        note: Second line, small: an interval, a sample size.
        key: What to sort by; None sorts last.
        tags: Labels behind the text.
        soft: Whether it stands back: a missing figure, a remark.
    """

    text: str
    note: str = ""
    key: float | str | None = None
    tags: tuple[Tag, ...] = ()
    soft: bool = False


@final
@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its header.

    Attributes:
        caption: What it shows; read out, and shown only where it is folded away.
        columns: Its columns.
        rows: Cells, as many per row as there are columns.
        sortable: Whether its headers sort it.
        marked: Numbers of the rows that stand out.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False
    marked: frozenset[int] = frozenset()


def named(caption: str, pairs: list[tuple[str, str]]) -> Table:
    """A table of two columns, name and value; pairs without a value are left out."""
    rows = tuple((Cell(name), Cell(value)) for name, value in pairs if value)
    return Table(caption=caption, columns=(Column("what"), Column("value")), rows=rows)
