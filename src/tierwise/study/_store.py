"""The records of a study on disk: one SQLite file, appended to block by block, never edited.

Whatever is committed survives a kill of the process and a loss of power; whatever is not is measured again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, final

import msgspec

from tierwise._errors import StoreError
from tierwise.measure import Record, StageTime
from tierwise.study._answers import Answers, packed, unpacked

__all__ = ["DATABASE", "SCHEMA", "Store"]

T = TypeVar("T")

DATABASE = "study.sqlite"
"""Name of the file inside a study's directory."""

SCHEMA = 2
"""Version of the tables this release writes. It reads 1 too, and brings it up to date when it is the writer."""

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE variants (key TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, value TEXT NOT NULL) STRICT;
CREATE TABLE strategies (key TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, value TEXT NOT NULL) STRICT;
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, number INTEGER NOT NULL, attempt INTEGER NOT NULL, value TEXT NOT NULL, warmups TEXT,
    environment_after TEXT, UNIQUE (number, attempt)
) STRICT;
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    strategy TEXT NOT NULL REFERENCES strategies (key), scenario TEXT NOT NULL, session INTEGER NOT NULL,
    round INTEGER NOT NULL, query INTEGER NOT NULL, sample INTEGER NOT NULL,
    cold INTEGER NOT NULL CHECK (cold IN (0, 1)),
    started_ns INTEGER NOT NULL, latency_s REAL NOT NULL, load_s REAL NOT NULL, stages TEXT NOT NULL,
    bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL, prediction INTEGER, correct INTEGER, exit_frac REAL,
    error TEXT,
    attempt INTEGER NOT NULL,
    UNIQUE (strategy, scenario, session, round, query, cold),
    FOREIGN KEY (session, attempt) REFERENCES sessions (number, attempt)
) STRICT;
"""

_SINCE_2 = """
CREATE TABLE test_labels (id INTEGER PRIMARY KEY CHECK (id = 0), value BLOB NOT NULL) STRICT;
CREATE TABLE test_answers (variant TEXT PRIMARY KEY REFERENCES variants (key), value BLOB NOT NULL) STRICT;
ALTER TABLE records ADD COLUMN energy_j REAL;
ALTER TABLE records ADD COLUMN above_idle_j REAL;
"""
"""What version 1 had not; a study that was begun with it has nothing there for what was examined and measured then."""

_COLUMNS = Record.__struct_fields__
_COLUMNS_1 = tuple(name for name in _COLUMNS if name not in {"energy_j", "above_idle_j"})


@final
class Store:
    """The database of one study. One process at a time may write (see `tierwise.study._lock`); any may read.

    Args:
        directory: The study's directory; must exist.
        create: Make the database where there is none; else its absence is an error.
        write: Whether the caller is the writer.

    Raises:
        StoreError: No database, one that cannot be read, or one of another version.
    """

    def __init__(self, directory: Path, *, create: bool = False, write: bool = True) -> None:
        self.path = directory / DATABASE
        if not create and not self.path.exists():
            raise StoreError(
                f"the directory must hold a study ({DATABASE})",
                where=directory,
                fix="Give the directory that `tierwise study run` wrote",
            )
        with self._sound():
            mode = "rwc" if create else "rw" if write else "ro"
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            if not write and not os.access(directory, os.W_OK):
                # A reader too keeps a small file beside a WAL database; where it cannot, nobody writes either.
                uri += "&immutable=1"
            # autocommit: transactions are opened and closed by hand, in `transaction` alone.
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30.0)
            try:
                self._prepare(create=create, write=write)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, *, create: bool, write: bool) -> None:
        run = self._connection.execute
        if write:
            run("PRAGMA journal_mode=WAL")
            run("PRAGMA synchronous=FULL")  # a commit returns when it is on the disk
            run("PRAGMA foreign_keys=ON")
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0 and create and not run("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            version = self._bring(_TABLES + _SINCE_2)
        elif version == 1 and write:
            version = self._bring(_SINCE_2)
        self._version: int = version
        if version not in (1, SCHEMA):
            raise StoreError(
                f"this release reads studies of versions 1 and {SCHEMA}",
                got=f"version {version}",
                where=self.path,
                fix="Use the release that wrote it, or start the study anew in another directory",
            )

    def _bring(self, tables: str) -> int:
        """Add tables and columns, all or none, and say that they are there: a kill leaves the version that was."""
        with self.transaction():
            for statement in filter(str.strip, tables.split(";")):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={SCHEMA}")
        return SCHEMA

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        """Turn what SQLite says of a broken file into an error with a remedy."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(
                    f"the study's database must be usable ({error})",
                    where=self.path,
                    fix="Look whether the disk is full, the file may be written, or another program holds it",
                ) from error
            raise StoreError(
                f"the study's database must be readable ({error})",
                where=self.path,
                fix="Restore the file from a copy, or delete the directory and run the study again",
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside lands together, or nothing of it."""
        with self._sound():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the database; what was committed is on the disk."""
        self._connection.close()

    # Facts: one value per name.

    def fact(self, name: str, kind: type[T]) -> T | None:
        """The value kept under ``name``; None where there is none."""
        with self._sound():
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else self._decode(row[0], kind)

    def set_fact(self, name: str, value: object) -> None:
        """Keep ``value`` (plain data or a struct) under ``name``; a fact is set once.

        Raises:
            sqlite3.IntegrityError: It was set before.
        """
        with self._sound():
            self._connection.execute("INSERT INTO facts VALUES (?, ?)", (name, _encode(value)))

    # Variants and strategies: ordered tables of structs.

    def put_all(self, table: str, entries: Mapping[str, object]) -> None:
        """Fill ``variants`` or ``strategies``, in order; call it inside a `transaction`."""
        with self._sound():
            self._connection.executemany(
                f"INSERT INTO {_plan_table(table)} VALUES (?, ?, ?)",
                [(key, position, _encode(value)) for position, (key, value) in enumerate(entries.items())],
            )

    def get_all(self, table: str, kind: type[T]) -> dict[str, T]:
        """What `put_all` wrote, in its order."""
        with self._sound():
            rows = self._connection.execute(f"SELECT key, value FROM {_plan_table(table)} ORDER BY position").fetchall()
        return {key: self._decode(value, kind) for key, value in rows}

    # Answers to the test items.

    def put_answers(self, answers: Answers) -> None:
        """Keep what variants answered; call it inside a `transaction`, behind `put_all` of the variants."""
        with self._sound():
            self._connection.execute("INSERT INTO test_labels VALUES (0, ?)", (packed(answers.labels),))
            self._connection.executemany(
                "INSERT INTO test_answers VALUES (?, ?)",
                [(variant, packed(classes)) for variant, classes in answers.predicted.items()],
            )

    def answers(self) -> Answers | None:
        """What `put_answers` wrote; None where an earlier release examined the variants."""
        if self._version < SCHEMA:
            return None
        with self._sound():
            labels = self._connection.execute("SELECT value FROM test_labels").fetchone()
            rows = self._connection.execute("SELECT variant, value FROM test_answers").fetchall()
        if labels is None:
            return None
        return Answers(unpacked(labels[0], self.path), {name: unpacked(value, self.path) for name, value in rows})

    # Sessions.

    def open_session(self, number: int, value: object) -> int:
        """Note that a session was opened; returns the attempt (0 the first time)."""
        with self.transaction():
            run = self._connection.execute
            attempt: int = run("SELECT count(*) FROM sessions WHERE number = ?", (number,)).fetchone()[0]
            run("INSERT INTO sessions (number, attempt, value) VALUES (?, ?, ?)", (number, attempt, _encode(value)))
        return attempt

    def add_to_session(self, number: int, attempt: int, column: str, value: object) -> None:
        """Fill ``warmups`` or ``environment_after`` of a session."""
        if column not in {"warmups", "environment_after"}:
            raise ValueError(column)
        with self.transaction():
            self._connection.execute(
                f"UPDATE sessions SET {column} = ? WHERE number = ? AND attempt = ? AND {column} IS NULL",
                (_encode(value), number, attempt),
            )

    def sessions(self) -> list[tuple[int, int, str, str | None, str | None]]:
        """(number, attempt, value, warm-ups, environment afterwards) as JSON, in the order they were opened."""
        with self._sound():
            return self._connection.execute(
                "SELECT number, attempt, value, warmups, environment_after FROM sessions ORDER BY id"
            ).fetchall()

    # Records.

    def append(self, records: Iterable[Record]) -> None:
        """Write the records of one block, all or none.

        Raises:
            StoreError: One of them is there already; nothing was written.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        try:
            with self.transaction():
                self._connection.executemany(
                    f"INSERT INTO records ({', '.join(_COLUMNS)}) VALUES ({marks})",
                    [_row(record) for record in records],
                )
        except sqlite3.IntegrityError as error:
            raise StoreError(
                f"a record must be new and belong to this study ({error})",
                where=self.path,
                fix="This is a fault of the program; nothing was written",
            ) from error

    def records(self) -> tuple[Record, ...]:
        """All records in the order they were committed."""
        columns = _COLUMNS_1 if self._version < SCHEMA else _COLUMNS
        with self._sound():
            rows = self._connection.execute(f"SELECT {', '.join(columns)} FROM records ORDER BY id").fetchall()
        return tuple(self._record(columns, row) for row in rows)

    def keys(self, session: int) -> set[tuple[str, str, int, int, int, bool]]:
        """`Record.key` of every record of a session."""
        with self._sound():
            rows = self._connection.execute(
                "SELECT strategy, scenario, session, round, query, cold FROM records WHERE session = ?", (session,)
            ).fetchall()
        return {(*row[:5], bool(row[5])) for row in rows}

    def measured_s(self, session: int, before_round: int) -> float:
        """Sum of the warm latencies of a session's rounds before one, which decides whether it needs more rounds."""
        with self._sound():
            row = self._connection.execute(
                "SELECT total(latency_s) FROM records WHERE session = ? AND cold = 0 AND round < ?",
                (session, before_round),
            ).fetchone()
        return float(row[0])

    def _record(self, columns: tuple[str, ...], row: tuple[Any, ...]) -> Record:
        fields = dict(zip(columns, row, strict=True))
        fields["cold"] = bool(fields["cold"])
        fields["correct"] = None if fields["correct"] is None else bool(fields["correct"])
        fields["stages"] = self._decode(fields["stages"], tuple[StageTime, ...])
        return Record(**fields)

    def _decode(self, text: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"what the database holds must be readable by this release ({error})",
                where=self.path,
                fix="Use the release that wrote it, or start the study anew in another directory",
            ) from error


def _encode(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _row(record: Record) -> tuple[Any, ...]:
    fields = {name: getattr(record, name) for name in _COLUMNS}
    fields["stages"] = msgspec.json.encode(record.stages).decode()
    return tuple(fields.values())


def _plan_table(name: str) -> str:
    if name not in {"variants", "strategies"}:
        raise ValueError(name)
    return name
