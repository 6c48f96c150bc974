"""Tables in CSV files that others wrote: read strictly, every refusal with its line."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tierwise._errors import InputError

__all__ = ["Row", "Table", "normal", "read_table"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FIELD_CHARS = 100_000


def normal(title: str) -> str:
    """A column's title as it is compared: ``Latency (ms)`` is ``latency_ms``."""
    return re.sub(r"[^\w%]+", "_", title.strip().casefold().replace("µ", "u").replace("μ", "u")).strip("_")


@final
@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        where: File and line it ends on.
        cells: By normal title.
    """

    where: str
    cells: Mapping[str, str]

    def name(self, column: str) -> str:
        """A name: blanks and line breaks inside it become one blank each run.

        Raises:
            InputError: It is empty or holds a control character.
        """
        text = " ".join(self.cells[column].split())
        if not text or not text.isprintable():
            raise InputError(f"column {column} must hold a name", got=repr(self.cells[column]), where=self.where)
        return text

    def number(self, column: str) -> float:
        """A finite number; blanks and line breaks around it do not matter.

        Raises:
            InputError: Anything else: empty, ``nan``, a comma, a blank inside, a unit.
        """
        text = self.cells[column].strip()
        value = float(text) if _NUMBER.fullmatch(text) else float("nan")
        if not abs(value) < float("inf"):
            raise InputError(
                f"column {column} must hold a finite number, with a point as decimal mark and no unit",
                got=repr(self.cells[column]),
                where=self.where,
            )
        return value

    def not_negative(self, column: str) -> float:
        """As `number`, and not below 0.

        Raises:
            InputError: As `number`, or a negative one.
        """
        value = self.number(column)
        if value < 0:
            raise InputError(f"column {column} must not be negative", got=self.cells[column].strip(), where=self.where)
        return value


@final
@dataclass(frozen=True)
class Table:
    """A CSV file with a header.

    Attributes:
        path: The file.
        titles: Normal titles of the columns, to the titles as written.
        rows: Rows that hold anything.
    """

    path: Path
    titles: Mapping[str, str]
    rows: tuple[Row, ...]


def read_table(path: Path) -> Table:
    """Read a CSV file: UTF-8 (a byte order mark is accepted), commas, fields in double quotes where needed.

    A file called ``.gz`` is unpacked first.

    Raises:
        InputError: It cannot be read as one; the message holds the line.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    records: list[tuple[int, Sequence[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((reader.line_num, cells))
                if max(map(len, cells)) > _FIELD_CHARS:
                    raise csv.Error(f"field larger than {_FIELD_CHARS} characters")
    except csv.Error as error:
        raise InputError(
            f"the file must be CSV with balanced quotes ({error})", where=f"{path}, line {reader.line_num}"
        ) from error
    if not records:
        raise InputError("the file must hold a header and rows, and it is empty", where=path)
    titles = _titles(path, *records[0])
    if len(records) == 1:
        raise InputError("the file must hold rows below its header, and there are none", where=path)
    return Table(path=path, titles=titles, rows=tuple(_row(path, titles, *record) for record in records[1:]))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the file must be readable ({error.strerror})", where=path) from error
    if path.suffix == ".gz":
        content = _unpacked(path, content)
    if b"\0" in content:
        raise InputError(
            "the file must be UTF-8 text without NUL bytes",
            where=f"{path}, line {content[: content.index(0)].count(10) + 1}",
            fix="A file in UTF-16 has many of them; save it as UTF-8",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the file must be UTF-8 text ({error.reason})",
            where=f"{path}, line {content[: error.start].count(10) + 1}",
            fix="Save it as UTF-8",
        ) from error


def _unpacked(path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"a file called .gz must be whole and packed with gzip ({error})",
            where=path,
            fix="Pack it again, or give the CSV file itself",
        ) from error


def _titles(path: Path, line: int, cells: Sequence[str]) -> dict[str, str]:
    titles: dict[str, str] = {}
    if len(cells) == 1 and re.search(r"[;\t]", cells[0]):
        raise InputError("columns must be separated by commas", got=repr(cells[0]), where=f"{path}, line {line}")
    for position, cell in enumerate(cells, 1):
        title = normal(cell)
        if not title or title in titles:
            raise InputError(
                "every column must have a title of its own",
                got=f"{cell!r} as number {position}",
                where=f"{path}, line {line}",
            )
        titles[title] = cell.strip()
    return titles


def _row(path: Path, titles: Mapping[str, str], line: int, cells: Sequence[str]) -> Row:
    where = f"{path}, line {line}"
    if len(cells) != len(titles):
        raise InputError(f"a row must have {len(titles)} fields as the header has", got=len(cells), where=where)
    return Row(where=where, cells=dict(zip(titles, cells, strict=True)))
