"""A study in MLflow's SQLite store, for real."""

from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tierwise._errors import SpecError, UnavailableError
from tierwise.study import track_target

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None or importlib.util.find_spec("sqlalchemy") is None,
    reason="MLflow is not installed (tierwise[mlflow])",
)

# In a process of its own: MLflow warns of things in its own code, which would be errors here.
PROGRAM = """
import sys
from pathlib import Path
import msgspec
from tierwise.artifact import Accuracy, ImageInput, Manifest, Provenance, Segment, TensorSpec, FileEntry
from tierwise.measure import Record, StageTime
from tierwise.study import Campaign, Strategy, StrategySpec, StudyData, Variant, track_study, track_target
from tierwise.study._read import summarise_cell
from tierwise.tasks import BuiltinTask
from tierwise.topology import Scaling, load

folder = Path(sys.argv[1])
tensor = TensorSpec(name="x", dtype="FP32", shape=(-1, 4))
manifest = Manifest(
    name="m", input=ImageInput(encoding="uint8", height=2, width=2, channels=1, mean=(0.0,), std=(1.0,)),
    outputs=(tensor,), segments=(Segment(file="m.onnx", inputs=(tensor,), outputs=(tensor,), macs=1),), files=(),
    provenance=Provenance(task="t", task_fingerprint="f", chain="identity", specs=(), versions={}, training_s=2.0),
    accuracy=(Accuracy(metric="accuracy", value=0.75, split="test", items=4),),
)
records = tuple(
    Record(strategy="identity@mobile", scenario="single-stream", session=0, round=0, query=i, sample=i, cold=False,
           started_ns=i, latency_s=0.010 + 0.001 * i, load_s=0.0, stages=(), bytes_up=100, bytes_down=10,
           prediction=1, correct=True, error=None)
    for i in range(11)
)
topology = load("lan")
data = StudyData(
    directory=folder, campaign=Campaign(name="shop", task=BuiltinTask(name="digits"), topology="lan",
        strategies=(StrategySpec(chain="identity"),)), campaign_toml="name = 'shop'", topology=topology,
    fitted=topology, scaling=Scaling(factor=1.0, wanted_cpus=1.0, machine_cpus=1.0), task_name="digits",
    task_fingerprint="f", metric="accuracy", test_items=4, load_items=11,
    strategies=(Strategy(id="identity@mobile", name="identity", chain="identity", placement="mobile",
        segments=("mobile",), path=("mobile",), variant="m"),),
    variants={"m": Variant(key="m", manifest=manifest, digest="0", directory="artifacts/m", artifact_bytes=1234)},
    sessions=(), records=records, cells=(summarise_cell("identity@mobile", records),), complete=True,
    tierwise_version="1",
)
(folder / "report.html").write_text("<html>")
target = track_target("mlflow", folder)
first = track_study(data, target, [folder / "report.html"])
assert track_study(data, target, [folder / "report.html"]) == first, "one run per study"

import mlflow
client = mlflow.MlflowClient(tracking_uri=target)
experiment = client.get_experiment_by_name("tierwise/shop")
runs = client.search_runs([experiment.experiment_id])
assert len(runs) == 2, runs
child = next(run for run in runs if run.info.run_id != first)
assert child.data.tags["mlflow.parentRunId"] == first
assert child.info.run_name == "identity@mobile", child.info.run_name
for name, value in {"p50_s": 0.015, "p90_s": 0.019, "accuracy": 0.75, "bytes_up": 100, "artifact_bytes": 1234}.items():
    assert abs(child.data.metrics[name] - value) < 1e-9, (name, child.data.metrics)
parent = client.get_run(first)
assert parent.data.params["topology"] == "lan" and parent.info.status == "FINISHED"
names = {entry.path for entry in client.list_artifacts(first)}
assert names == {"campaign.toml", "manifests", "report.html"}, names
assert (folder / "mlflow-artifacts").is_dir()
"""


@needs_mlflow
def test_a_study_is_logged_once_with_its_figures_and_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    database.close()


def test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("wandb", "mlflow="):
        with pytest.raises(SpecError, match="mlflow or mlflow=URI"):
            track_target(wrong, tmp_path)
    with pytest.raises(SpecError, match="must be a URI"):
        track_target("mlflow=runs", tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UnavailableError, match=r"pip install 'tierwise\[mlflow\]'"):
        track_target("mlflow", tmp_path)
