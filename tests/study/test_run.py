from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import psutil
import pytest

from tierwise._errors import StoreError, TamperedError
from tierwise.artifact import open_artifact
from tierwise.measure import Profile, Record, Server, Silent, SingleStream, Turn
from tierwise.planner import Comparison, Need
from tierwise.study import (
    Campaign,
    StrategySpec,
    StudyFigures,
    evidence_of,
    export_study,
    import_evidence,
    load_study,
    run_study,
    study_figures,
)
from tierwise.study._inputs import Inputs
from tierwise.study._lock import locked
from tierwise.study._plan import Plan
from tierwise.study._read import summarise_cell
from tierwise.study._session import Bench, Equipment
from tierwise.study._store import DATABASE, Store
from tierwise.tasks import BuiltinTask, ResNet, Training
from tierwise.topology import Link, Tier, Topology

TINY = Campaign(
    name="tiny",
    task=BuiltinTask(
        name="digits",
        subject=ResNet(depth=8, width=4),
        training=Training(epochs=1, precision="float32"),
        train_items=200,
    ),
    topology=Topology(
        name="two",
        tiers=(Tier(name="low", cpus=1.0, memory_bytes=2 * 10**9), Tier(name="high", cpus=1.0, memory_bytes=2 * 10**9)),
        links=(Link(lower="low", upper="high", up_bps=50e6, down_bps=50e6, rtt_s=0.004),),
    ),
    profile=Profile(sessions=2, rounds=2, samples=8, cold_starts=1, warmup_window=2, warmup_windows=2),
    scenario=SingleStream(),
    strategies=(StrategySpec(chain="identity"), StrategySpec(chain="partition")),
    link_means="proxy",
)
"""Three strategies on two tiers; 2 sessions of 3 cold starts and 48 warm requests."""

IDS = ("identity@low", "identity@high", "partition@low|high")
PLAN = Plan(scenario=TINY.scenario, profile=TINY.measured(), seed=TINY.seed, strategies=IDS, samples=8)
PLANNED = {
    key
    for session in range(2)
    for key in PLAN.cold_keys(session)
    | {key for block in PLAN.blocks(session, lambda round: 0.0) for key in PLAN.block_keys(session, block)}
}

PROGRAM = """
import sys
from contextlib import closing, contextmanager
from pathlib import Path
import msgspec
from tierwise.study import Campaign, run_study

def tell(*words):
    print(*words, flush=True)

class Telling:
    @contextmanager
    def step(self, title, total):
        tell("begin", title)
        yield lambda n: tell("advance", title)
        tell("end", title)

    def say(self, line):
        tell("say", line)

campaign = msgspec.json.decode(sys.argv[1], type=Campaign)
run_study(campaign, Path(sys.argv[2]), Telling(), cache=Path(sys.argv[3]))
tell("finished")
"""


@contextmanager
def running(directory: Path, cache: Path) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """The study as a process of its own, and what it says line by line."""
    arguments = [sys.executable, "-c", PROGRAM, msgspec.json.encode(TINY).decode(), str(directory), str(cache)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as process:
        assert process.stdout is not None
        try:
            yield process, (line.strip() for line in process.stdout)
        finally:
            process.kill()


def finish(directory: Path, cache: Path) -> list[str]:
    """Run the study to its end."""
    with running(directory, cache) as (process, heard):
        said = list(heard)
        if process.wait() != 0:
            pytest.fail("the study ended with an error:\n" + "\n".join(said[-30:]))
    assert said[-1] == "finished"
    return said


def tee(heard: Iterator[str], passed: list[str]) -> Iterator[str]:
    """``heard``, kept in ``passed`` as it goes by."""
    for line in heard:
        passed.append(line)
        yield line


def stored(directory: Path) -> tuple[Record, ...]:
    if not (directory / DATABASE).exists():
        return ()
    try:
        store = Store(directory, write=False)
    except StoreError as error:
        # Killed between making the file and making its tables: nothing can have been recorded.
        assert "version 0" in str(error)  # noqa: PT017
        return ()
    found = store.records()
    store.close()
    return found


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The tiny study, run without interruption, with all it said."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(folder / "study", folder / "cache")


@pytest.mark.emulation
def test_a_study_measures_what_was_planned(whole: tuple[Path, list[str]]) -> None:
    folder, _ = whole
    study = load_study(folder / "study")
    assert study.complete
    assert [strategy.id for strategy in study.strategies] == list(IDS)
    assert sorted(record.key for record in study.records) == sorted(PLANNED)
    assert all(record.error is None for record in study.records)
    assert len(study.sessions) == 2
    assert [len(session.warmups) for session in study.sessions] == [3, 3]
    cells = {cell.strategy: cell for cell in study.cells}
    for strategy in study.strategies:
        cell = cells[strategy.id]
        assert cell.latency is not None
        assert (cell.requests, cell.errors, cell.latency.n) == (32, 0, 32)
        assert len(cell.session_medians_s) == len(cell.cold_starts_s) == 2
        assert strategy.predicted is not None
        # What crosses the link costs at least its round trip.
        assert cell.latency.min_s > (0.0 if strategy.id == "identity@low" else 0.004)
        assert (cell.bytes_up > 0) == (strategy.id != "identity@low")
    tiers = {record.strategy: {stage.stage for stage in record.stages} for record in study.records}
    assert {"head", "tail"} <= tiers["partition@low|high"]
    assert "infer" in tiers["identity@high"]
    for variant in study.variants.values():
        assert variant.agreement_frac == 1.0
        (accuracy,) = variant.manifest.accuracy
        assert (accuracy.split, accuracy.items) == ("test", study.test_items)
        assert (folder / "study" / variant.directory / "manifest.json").exists()
        # What it answered to the test items gives that accuracy again; a cut changes no answer.
        assert study.answers is not None
        predicted = study.answers.predicted[variant.key]
        assert len(predicted) == study.test_items
        assert (predicted == study.answers.labels).mean() == pytest.approx(accuracy.value)


@pytest.mark.emulation
def test_an_export_holds_what_was_measured_and_can_be_imported(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    study = load_study(whole[0] / "study")
    out = export_study(study, tmp_path / "figures")
    assert sorted(path.name for path in out.iterdir()) == ["accuracy.csv", "answers.csv", "figures.json", "latency.csv"]
    figures = msgspec.json.decode((out / "figures.json").read_bytes(), type=StudyFigures)
    assert figures == study_figures(study)
    assert figures.complete
    assert [one.id for one in figures.strategies] == list(IDS)
    cells = {cell.strategy: cell for cell in study.cells}
    for one in figures.strategies:
        assert one.latency == cells[one.id].latency
        assert one.p95 is not None
        assert one.latency is not None
        assert one.latency.p90.value_s <= one.p95.value_s <= one.latency.max_s
        assert (one.against_baseline is None) == one.id.startswith("identity")
        assert figures.variants[one.variant].accuracy == study.variants[one.variant].manifest.accuracy
    assert study.answers is not None
    with (out / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == study.answers.labels.tolist()
    for variant, predicted in study.answers.predicted.items():
        assert [int(row[variant]) for row in rows] == predicted.tolist()
    imported = import_evidence(out / "latency.csv", out / "accuracy.csv", answers=out / "answers.csv")
    measured = evidence_of(study)
    need = Need()
    again = Comparison(imported, imported.subjects[0], need)
    before = Comparison(measured, measured.subjects[0], need)
    assert again.tests == before.tests
    for name in IDS:
        assert again.figures(name).latency_s == before.figures(name).latency_s
        assert again.figures(name).accuracy == before.figures(name).accuracy
        assert again.figures(name).accuracy_lost_interval == before.figures(name).accuracy_lost_interval


PHASES = (
    "load inputs", "train", "export", "accuracy", "session 1 of 2: start", "session 1 of 2: deploy",
    "session 1 of 2: warm up", "session 1 of 2: measure", "session 1 of 2: measure", "session 2 of 2: start",
    "session 2 of 2: deploy", "session 2 of 2: measure",
)  # fmt: skip
"""Where the study is killed, in the order it gets there; nothing before a kill's phase keeps that phase from coming."""


@pytest.mark.emulation
def test_killed_at_any_moment_it_goes_on_without_losing_or_doubling_a_record(
    whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    reference, said = whole
    moments = random.Random(os.environ.get("TIERWISE_KILL_SEED", "1"))
    before: tuple[Record, ...] = ()
    for phase in PHASES:
        with running(tmp_path / "study", tmp_path / "cache") as (process, heard):
            passed: list[str] = []
            title = next((line[6:] for line in tee(heard, passed) if line.startswith(f"begin {phase}")), None)
            assert title is not None, f"it never came to {phase!r} but said {passed[-8:]}"
            # Somewhere in the phase's first half: after some of its steps, and some milliseconds into the next one.
            for _ in range(moments.randrange(said.count(f"advance {title}") // 2 + 1)):
                next(heard)
            time.sleep(moments.uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
        after = stored(tmp_path / "study")
        # What was on the disk stays there, as it was.
        assert after[: len(before)] == before
        before = after
    finish(tmp_path / "study", tmp_path / "cache")
    study = load_study(tmp_path / "study")
    assert study.complete
    assert study.records[: len(before)] == before
    assert sorted(record.key for record in study.records) == sorted(PLANNED)
    # The same inputs in the same places as without interruption.
    asked = {record.key: record.sample for record in load_study(reference / "study").records}
    assert {record.key: record.sample for record in study.records} == asked


@pytest.mark.emulation
def test_a_node_that_dies_makes_failed_records_and_the_session_is_opened_again(
    whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    reference, _ = whole
    with running(tmp_path / "study", reference / "cache") as (process, heard):
        next(line for line in heard if line == "advance session 1 of 2: measure")
        for child in psutil.Process(process.pid).children(recursive=True):
            if {"node", "--tier", "high"} <= set(child.cmdline()):
                child.kill()
        said = list(heard)
        assert process.wait() == 0, said
    assert any("node died in session 1" in line for line in said)
    study = load_study(tmp_path / "study")
    assert study.complete
    assert sorted(record.key for record in study.records) == sorted(PLANNED)
    assert [(session.number, session.attempt) for session in study.sessions] == [(0, 0), (0, 1), (1, 0)]
    failed = [record for record in study.records if record.error is not None]
    # The block it died in is kept as it was; the strategy that needs no other tier did not mind.
    assert {record.strategy for record in failed} <= {"identity@high", "partition@low|high"}
    assert {record.attempt for record in failed} == {0}
    assert 1 <= len(failed) <= 4
    for cell in study.cells:
        assert cell.errors == sum(record.strategy == cell.strategy for record in failed)


@pytest.mark.emulation
def test_the_server_scenario_runs_through_nodes(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    reference, _ = whole
    campaign = msgspec.structs.replace(
        TINY,
        scenario=Server(rate_per_s=100, queries=40, outstanding=8),
        profile=Profile(samples=4, cold_starts=2, warmup_window=2, warmup_windows=2),
    )
    study = run_study(campaign, tmp_path / "study", cache=reference / "cache")
    assert study.complete
    warm = [record for record in study.records if not record.cold]
    assert (len(warm), len(study.records)) == (3 * 40, 3 * 40 + 3 * 2)
    assert {record.error for record in study.records} == {None}
    for cell in study.cells:
        assert len(cell.cold_starts_s) == 2
        assert cell.throughput_per_s == pytest.approx(100, rel=0.5)
    # All strategies get the same requests at the same times after the start of their run.
    asked = {name: [(record.query, record.sample) for record in warm if record.strategy == name] for name in IDS}
    assert asked[IDS[0]] == asked[IDS[1]] == asked[IDS[2]]


@pytest.mark.emulation
def test_what_no_node_answers_becomes_records(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, _ = whole
    study = load_study(folder / "study")
    strategies = {strategy.id: strategy for strategy in study.strategies}
    labels = tuple(range(8))
    inputs = Inputs(requests=({"payload": np.zeros((1, 8, 8, 1), np.uint8)},) * 8, tensors=(), labels=labels)
    equipment = Equipment(
        plan=PLAN,
        strategies=strategies,
        artifacts={key: open_artifact(folder / "study" / one.directory) for key, one in study.variants.items()},
        inputs=inputs,
        topology=study.topology,
        machine_cpus=1.0,
        link_means=None,
        limiter=None,
        workdir=tmp_path,
    )
    nowhere = f"unix:{tmp_path}/nobody.sock"
    bed = SimpleNamespace(
        control={"low": nowhere, "high": nowhere}, forward=lambda lower, upper: nowhere, alive=lambda: True
    )
    with closing(Store(tmp_path, create=True)) as store:
        with store.transaction():
            store.put_all("strategies", strategies)
        store.open_session(0, "nothing")
        bench = Bench(equipment, bed, store, Turn(session=0, labels=labels))  # type: ignore[arg-type]
        with bench.pipelines():
            bench.cold_starts("test", Silent())
            bench.warm_up("test", Silent())
            assert bench.measure("test", Silent())
        records = store.records()
    assert {record.key for record in records} == {key for key in PLANNED if key[2] == 0}
    assert all(record.error is not None and "nobody.sock" in record.error for record in records)
    cell = summarise_cell(IDS[0], [record for record in records if record.strategy == IDS[0]])
    assert (cell.error_frac, cell.latency, cell.cold_starts_s) == (1.0, None, ())


@pytest.mark.emulation
def test_what_is_finished_is_not_measured_again(whole: tuple[Path, list[str]]) -> None:
    folder, _ = whole
    before = load_study(folder / "study")
    said = finish(folder / "study", folder / "cache")
    assert not [line for line in said if "session" in line or "train" in line]
    after = load_study(folder / "study")
    assert after.records == before.records
    assert len(after.sessions) == 2


@pytest.mark.emulation
def test_another_study_in_the_same_directory_is_refused(whole: tuple[Path, list[str]]) -> None:
    folder, _ = whole
    other = msgspec.structs.replace(TINY, seed=1)
    with pytest.raises(StoreError, match="holds a study in which seed is 0, but got 1"):
        run_study(other, folder / "study", cache=folder / "cache")
    other = msgspec.structs.replace(TINY, strategies=(StrategySpec(chain="sptq"), StrategySpec(chain="partition")))
    with pytest.raises(StoreError, match=r"strategies\[0\]\.chain is 'identity', but got 'sptq'"):
        run_study(other, folder / "study", cache=folder / "cache")


def test_a_study_at_work_is_left_alone(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StoreError, match=rf"one process at a time, but got process {os.getpid()}"):
        run_study(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.lock"]


@pytest.mark.emulation
def test_a_changed_artifact_is_refused(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, _ = whole
    shutil.copytree(folder / "study", tmp_path / "study")
    variant = next(iter(load_study(tmp_path / "study").variants.values()))
    with (tmp_path / "study" / variant.directory / variant.manifest.segments[0].file).open("ab") as file:
        file.write(b"x")
    with pytest.raises(TamperedError):
        run_study(TINY, tmp_path / "study", cache=folder / "cache")
