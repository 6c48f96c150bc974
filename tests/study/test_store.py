from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tierwise._errors import StoreError
from tierwise.measure import Record, StageTime
from tierwise.study import Answers, evidence_of, load_study
from tierwise.study._answers import Examined, keep_examined, load_examined, packed, unpacked
from tierwise.study._lock import locked
from tierwise.study._read import summarise_cell
from tierwise.study._store import DATABASE, Store

RECORD = Record(
    strategy="a@x", scenario="single-stream", session=0, round=0, query=0, sample=4, cold=False,
    started_ns=2**53 + 1, latency_s=0.1 + 0.2, stages=(StageTime("x", "infer", 1e-9),), bytes_up=3, bytes_down=4,
    prediction=2, correct=False,
)  # fmt: skip


VERSION_1 = Path(__file__).with_name("version-1.sql")
"""A whole study as the release before version 2 wrote it: 15 records of 3 strategies."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path, create=True)
    with opened.transaction():
        opened.put_all("strategies", {"a@x": "first", "b@x": "second"})
    assert opened.open_session(0, "environment") == 0
    return opened


def changed(**values: object) -> Record:
    return msgspec.structs.replace(RECORD, **values)


def test_records_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    failed = changed(query=1, prediction=None, correct=None, error="RemoteError: ü", stages=(), cold=True, load_s=0.5)
    store.append([RECORD, failed])
    store.append([changed(query=2, correct=True)])
    assert store.records() == (RECORD, failed, changed(query=2, correct=True))
    assert store.keys(0) == {RECORD.key, failed.key, changed(query=2).key}
    assert store.keys(1) == set()
    store.close()
    with closing(Store(tmp_path, write=False)) as again:
        assert again.records()[0] == RECORD
        with pytest.raises(StoreError, match=r"must be usable \(attempt to write a readonly database\)"):
            again.append([changed(query=3)])


@pytest.mark.parametrize("name", ["strategy", "session", "round", "query", "cold"])
def test_a_record_is_doubled_only_when_its_whole_name_is(store: Store, name: str) -> None:
    store.open_session(1, "environment")
    other = {"strategy": "b@x", "session": 1, "round": 1, "query": 1, "cold": True}[name]
    store.append([RECORD])
    store.append([changed(**{name: other})])
    with pytest.raises(StoreError, match="a record must be new"):
        store.append([changed(latency_s=9.0, attempt=0)])


def test_a_block_is_written_whole_or_not_at_all(store: Store) -> None:
    store.append([RECORD])
    with pytest.raises(StoreError, match=r"UNIQUE.*nothing was written"):
        store.append([changed(query=5), RECORD])
    assert store.records() == (RECORD,)
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.append([changed(query=5, strategy="unknown@x")])
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.append([changed(query=5, session=7)])
    assert store.records() == (RECORD,)


def test_measured_time_counts_whole_rounds_before(store: Store) -> None:
    store.append([changed(latency_s=1.0), changed(round=1, latency_s=2.0), changed(round=2, latency_s=4.0)])
    store.append([changed(cold=True, latency_s=100.0)])
    assert [store.measured_s(0, before) for before in range(4)] == [0.0, 1.0, 3.0, 7.0]


def test_sessions_count_their_attempts(store: Store) -> None:
    assert [store.open_session(0, "again"), store.open_session(1, "new")] == [1, 0]
    store.add_to_session(0, 1, "warmups", [1])
    assert store.sessions() == [
        (0, 0, '"environment"', None, None), (0, 1, '"again"', "[1]", None), (1, 0, '"new"', None, None)
    ]  # fmt: skip


def test_facts_are_set_once(store: Store) -> None:
    store.set_fact("seed", 3)
    with pytest.raises(sqlite3.IntegrityError):
        store.set_fact("seed", 4)
    assert (store.fact("seed", int), store.fact("other", int)) == (3, None)


def test_the_writer_waits_for_the_disk(store: Store) -> None:
    connection = store._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"must hold a study \(study\.sqlite\)"):
        load_study(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unprepared_study_cannot_be_read_yet(tmp_path: Path) -> None:
    Store(tmp_path, create=True).close()
    with pytest.raises(StoreError, match="must have built its variants"):
        load_study(tmp_path)


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_broken_database_says_so(store: Store, tmp_path: Path, damage: str) -> None:
    store.append([changed(query=k) for k in range(300)])
    page = store._connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'records'").fetchone()[0]
    store.close()
    path = tmp_path / DATABASE
    content = bytearray(path.read_bytes())
    if damage == "text":
        content = bytearray(b"this is no database at all" * 400)
    else:
        start = 0 if damage == "header" else 4096 * (page - 1)
        content[start : start + 6000] = os.urandom(6000)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"study\.sqlite: the study's database must be readable.*Restore the file"):
        Store(tmp_path).records()


def test_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="reads studies of versions 1 and 2, but got version 99"):
        Store(tmp_path)


def test_answers_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    assert store.answers() is None
    labels = np.array([0, 1, 70_000, 3])
    with store.transaction():
        store.put_all("variants", {"a": 1, "b": 2})
        store.put_answers(Answers(labels, {"a": np.array([0, 1, 1, 1]), "b": np.array([0, -1, 2**40, 0])}))
    store.close()
    with closing(Store(tmp_path, write=False)) as again:
        found = again.answers()
    assert found is not None
    assert found.labels.tolist() == labels.tolist()
    assert {name: list(one) for name, one in found.predicted.items()} == {"a": [0, 1, 1, 1], "b": [0, -1, 2**40, 0]}


def test_answers_are_of_a_variant_of_the_study_and_written_once(store: Store) -> None:
    answers = Answers(np.array([1, 2]), {"a": np.array([1, 1])})
    with pytest.raises(sqlite3.IntegrityError), store.transaction():
        store.put_answers(answers)
    assert store.answers() is None
    with store.transaction():
        store.put_all("variants", {"a": 1})
        store.put_answers(answers)
    with pytest.raises(sqlite3.IntegrityError), store.transaction():
        store.put_answers(answers)


@pytest.mark.parametrize("damage", [b"", b"\x03abc", b"\x02abc", packed(np.arange(9))[:-3]])
def test_damaged_answers_say_so(damage: bytes) -> None:
    with pytest.raises(StoreError, match="here: answers to test items must be readable"):
        unpacked(damage, "here")


def test_what_was_examined_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    assert load_examined(tmp_path, "a") is None
    examined = Examined(digest="d", labels=packed(np.array([1])), predicted=packed(np.array([2])))
    keep_examined(tmp_path, "a", examined)
    assert load_examined(tmp_path, "a") == examined
    (only,) = (tmp_path / "answers").iterdir()
    only.write_bytes(only.read_bytes()[:-4])
    assert load_examined(tmp_path, "a") is None


def test_a_study_of_version_1_is_read_as_it_is_and_brought_up_to_date_by_the_writer(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.executescript(VERSION_1.read_text())
        connection.execute("PRAGMA journal_mode=WAL")
        rows = connection.execute("SELECT * FROM records ORDER BY id").fetchall()
    content = (tmp_path / DATABASE).read_bytes()
    before = load_study(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == content
    assert before.complete
    assert before.answers is None
    assert [(one.strategy, one.latency_s, one.started_ns) for one in before.records] == [
        (r[1], r[9], r[8]) for r in rows
    ]
    assert len(before.records) == 15
    assert any("were not kept for 2 of 2 variants" in note for note in evidence_of(before).notes)
    with closing(Store(tmp_path)) as store:
        one = before.records[0]
        store.append([msgspec.structs.replace(one, round=7, query=7)])
        assert store._connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert store._connection.execute("PRAGMA foreign_key_check").fetchall() == []
    after = load_study(tmp_path)
    assert after.records[:-1] == before.records
    assert after.records[-1].round == 7
    assert (after.strategies, after.variants, after.sessions) == (before.strategies, before.variants, before.sessions)
    Store(tmp_path).close()  # a second time there is nothing to do
    assert load_study(tmp_path).records == after.records


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from tierwise._errors import StoreError
from tierwise.study._lock import locked
try:
    with locked(Path({str(tmp_path)!r})):
        print("held")
except StoreError as error:
    print(error)
"""

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    with locked(tmp_path):
        assert f"one process at a time, but got process {os.getpid()} at work in it" in other()
    assert other() == "held\n"


def test_a_cell_is_summed_up() -> None:
    records = [
        changed(query=k, session=k % 2, latency_s=0.1 * (k + 1), stages=(StageTime("x", "tail", 0.1 * k),))
        for k in range(4)
    ]
    records.append(changed(query=4, error="RemoteError: gone", latency_s=30.0, prediction=None, correct=None))
    records.append(changed(query=0, cold=True, load_s=0.5, latency_s=0.25))
    found = summarise_cell("a@x", records)
    assert (found.requests, found.errors, found.error_frac, found.first_error) == (5, 1, 0.2, "RemoteError: gone")
    assert found.latency is not None
    assert found.latency.max_s == pytest.approx(0.4)
    assert found.session_medians_s == pytest.approx((0.2, 0.3))
    assert (found.cold_starts_s, found.cold_load_s) == ((0.75,), (0.5,))
    assert found.stages == (StageTime("x", "tail", pytest.approx(0.15)),)
    assert (found.bytes_up, found.bytes_down, found.correct_frac) == (3, 4, 0.0)
    assert found.throughput_per_s is None


def test_throughput_is_answers_over_the_time_of_the_runs() -> None:
    # Two runs of 4 requests that last 2 s each.
    records = [
        changed(scenario="offline", query=k, round=round, started_ns=round * 10**10, latency_s=0.5 * (k + 1))
        for round in range(2)
        for k in range(4)
    ]
    assert summarise_cell("a@x", records).throughput_per_s == pytest.approx(2.0)
