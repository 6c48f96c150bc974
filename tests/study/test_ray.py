"""Variants built as Ray tasks: the same content as built here, each prefix once, killed and gone on with."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from tierwise._errors import InputError, SpecError, StoreError, UnavailableError
from tierwise.measure import Silent
from tierwise.operators import build, parse_chain
from tierwise.study import Campaign, StrategySpec
from tierwise.study._order import Failure, Order, fulfil, packages
from tierwise.study._parcel import folders_of, pack, unpack
from tierwise.study._plan import asked_strategies
from tierwise.study._ray import _accept, build_on_ray, ray_address
from tierwise.tasks import BuiltinTask, ResNet, Training, load_task
from tierwise.topology import load

TASK = BuiltinTask(
    name="digits",
    subject=ResNet(depth=8, width=4),
    training=Training(epochs=1, precision="float32"),
    train_items=200,
)
CAMPAIGN = Campaign(
    name="c",
    task=TASK,
    topology="lan",
    strategies=tuple(StrategySpec(chain=chain) for chain in ("identity", "sptq", "partition", "sptq+partition")),
)

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (tierwise[ray])")

PROGRAM = """
import sys
from contextlib import contextmanager
from pathlib import Path
import msgspec
from tierwise.study import Campaign
from tierwise.study._plan import asked_strategies
from tierwise.study._ray import build_on_ray
from tierwise.tasks import load_task
from tierwise.measure import Silent

class Telling:
    @contextmanager
    def step(self, title, total):
        print("begin", total, flush=True)
        yield lambda n: print("done", n, flush=True)

    def say(self, line):
        print(line, flush=True)

if __name__ == "__main__":
    campaign = msgspec.json.decode(sys.argv[1], type=Campaign)
    directory, cache = Path(sys.argv[2]), Path(sys.argv[3])
    task = load_task(campaign.task, cache, Silent(), threads=1)
    asked = asked_strategies(campaign, campaign.asked_topology())
    build_on_ray(task, campaign.task, asked, directory, cache, Telling(), None)
    print("finished", flush=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """A process of its own: Ray leaves threads and sockets behind in the one that starts it."""
    arguments = [msgspec.json.encode(CAMPAIGN).decode(), str(folder / "study"), str(folder / "cache")]
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": "/tmp"}
    # Ray lets every other program go before its workers: beside other tests they would hardly get a turn.
    environment["RAY_worker_niceness"] = "0"
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def artifacts(folder: Path) -> set[str]:
    return {path.name for path in (folder / "study" / "artifacts").iterdir()}


@needs_ray
def test_a_build_on_ray_that_is_killed_goes_on_and_gives_what_a_local_one_finds(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "done 1":
            break
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    assert {name.rpartition("-")[0] for name in artifacts(tmp_path)} == {"digits-identity"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "stages").iterdir()}
    psutil.wait_procs(children, timeout=30)
    said = start(tmp_path).communicate(timeout=200)[0].splitlines()
    # identity and sptq; cutting is left to the study.
    assert said == ["begin 2", "done 1", "done 1", "finished"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made = folders_of(tmp_path / "study", ("stages", "artifacts"))
    task = load_task(TASK, tmp_path / "cache", Silent(), threads=1)
    for chain in ("identity", "sptq"):
        # Found, not built: no folder is new.
        build(task, parse_chain(chain), tmp_path / "study")
    assert folders_of(tmp_path / "study", ("stages", "artifacts")) == made
    # All is there: Ray is not even started.
    assert start(tmp_path).communicate(timeout=60)[0].splitlines() == ["finished"]


def test_an_error_of_a_worker_is_the_error_of_the_study(tmp_path: Path) -> None:
    order = Order(task=TASK, fingerprint="0", chain=parse_chain("sptq"), packages={}, cache=str(tmp_path))
    failure = Failure.of(InputError("it must fit", got=3, where=tmp_path, fix="Mend it"))
    with pytest.raises(InputError, match=r"it must fit, but got 3\. Mend it\."):
        _accept(order, msgspec.json.encode(failure), {}, tmp_path, tmp_path)
    with pytest.raises(StoreError, match="stages, resolved, artifacts"):
        _accept(order, b"null", {"other/x/y": b""}, tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_ray_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    task = load_task(TASK, tmp_path / "cache", Silent(), threads=1)
    asked = asked_strategies(CAMPAIGN, load("lan"))
    with pytest.raises(UnavailableError, match=r"pip install 'tierwise\[ray\]'"):
        build_on_ray(task, TASK, asked, tmp_path / "study", tmp_path / "cache", Silent(), None)


def test_addresses() -> None:
    assert ray_address("ray") is None
    assert ray_address("ray=10.0.0.1:6379") == "10.0.0.1:6379"
    for wrong in ("ray=", "dask", "ray:1"):
        with pytest.raises(SpecError, match="ray or ray=ADDRESS"):
            ray_address(wrong)


def test_a_worker_with_other_packages_or_data_is_refused(tmp_path: Path) -> None:
    order = Order(
        task=TASK,
        fingerprint="0" * 64,
        chain=parse_chain("identity"),
        packages=packages() | {"torch": "1.0"},
        cache=str(tmp_path),
    )
    failure, made = fulfil(order, [])
    assert made == {}
    assert failure is not None
    assert "torch 1.0" in failure.must
    failure, _ = fulfil(msgspec.structs.replace(order, packages=packages()), [])
    assert failure is not None
    assert "must be the study's" in failure.must


def test_parcels_travel_and_stay_inside(tmp_path: Path) -> None:
    unpack(tmp_path / "a", {"stages/x/model.onnx": b"1", "stages/x/deep/y": b"2", "tasks/t/tokenizer.json": b"3"})
    sent = pack(tmp_path / "a", folders_of(tmp_path / "a", ("stages", "tasks")))
    assert len(sent) == 3
    unpack(tmp_path / "a", {"tasks/t/weights": b"4", "tasks/t/tokenizer.json": b"other"})
    assert pack(tmp_path / "a", ["tasks/t"]) == {"tasks/t/tokenizer.json": b"3", "tasks/t/weights": b"4"}
    for wrong in ("../x/y", "stages/../../y", "/etc/x/y", "stages/y"):
        with pytest.raises(StoreError, match="KIND/NAME/FILE"):
            unpack(tmp_path / "a", {wrong: b""})
