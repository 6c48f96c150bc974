from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tierwise._errors import InputError
from tierwise.artifact import Optimiser
from tierwise.measure import Silent
from tierwise.tasks import BuiltinTask, ResNet, Task, Training, load_task
from tierwise.training import Scheme
from tierwise.training.compiler import Comparison, compare, read_comparison


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    subject = ResNet(depth=8, width=4)
    spec = BuiltinTask(name="digits", subject=subject, training=Training(epochs=0), train_items=64)
    return load_task(spec, tmp_path_factory.mktemp("tasks"), Silent(), threads=1)


def asked(task: Task) -> Comparison:
    return Comparison(
        task=task.name,
        fingerprint=task.fingerprint,
        schemes={"last-1": Scheme(whole=1)},
        optimiser=Optimiser(kind="momentum", rate=1e-3),
        rates=(1e-4, 3e-1),
        seeds=2,
        steps=3,
        batch=4,
    )


def test_trials_are_kept_resumed_and_chosen_by_validation(task: Task, tmp_path: Path) -> None:
    done = compare(task, asked(task), tmp_path)
    assert [(one.rate, one.seed) for one in done[:2]] == [(1e-4, 0), (3e-1, 0)]
    best = max(done[:2], key=lambda one: one.validation)
    assert [(one.rate, one.seed) for one in done[2:]] == [(best.rate, 1)]
    assert all(one.test_items == len(task.splits["test"]) for one in done)

    # One is lost, as by a kill: only it is done again, and comes out the same.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()}
    lost = tmp_path / "trials" / f"last-1-{best.rate:g}-1.json"
    lost.unlink()
    again = compare(task, asked(task), tmp_path)
    assert msgspec.structs.astuple(again[2])[:11] == msgspec.structs.astuple(done[2])[:11]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if path != lost)

    trials, (trace,) = read_comparison(tmp_path)
    assert sorted(trials, key=repr) == sorted(again, key=repr)
    assert trace.scheme == "last-1"
    assert trace.peak_bytes == max(trace.live_bytes) > 0

    with pytest.raises(InputError, match="must hold this one or none"):
        compare(task, msgspec.structs.replace(asked(task), steps=4), tmp_path)


def test_no_comparison_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold a comparison"):
        read_comparison(tmp_path)
