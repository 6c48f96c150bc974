"""A study in MLflow: one run for the study, a nested one per strategy, figures, the report and the manifests."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tierwise._errors import SpecError, UnavailableError
from tierwise.study._results import CellSummary, Strategy, StudyData

__all__ = ["track_study", "track_target"]

_TAG: Final = "tierwise.study"
_STRATEGY: Final = "tierwise.strategy"
_DATABASE: Final = "mlflow.db"
_ARTIFACTS: Final = "mlflow-artifacts"


def track_target(track: str, directory: Path) -> str:
    """The tracking URI in ``mlflow`` or ``mlflow=URI``; without one, a SQLite store in the study's directory.

    Called before anything runs, so that hours of measuring do not end in a missing package.

    Raises:
        SpecError: Neither.
        UnavailableError: MLflow is not installed.
    """
    name, equals, uri = track.partition("=")
    if name != "mlflow" or (equals and not uri):
        raise SpecError("where to log must be mlflow or mlflow=URI", got=repr(track), where="--track")
    if uri and "://" not in uri:
        raise SpecError(
            "an MLflow store must be a URI",
            got=repr(uri),
            where="--track",
            fix="Write sqlite:///PATH/mlflow.db, or http://HOST:PORT of a server (MLflow has given up plain folders)",
        )
    _mlflow()
    return uri or f"sqlite:///{(directory / _DATABASE).resolve()}"


def track_study(data: StudyData, uri: str, files: Sequence[Path] = ()) -> str:
    """Log a study, or bring its run up to date; the same study in the same directory has one run.

    Args:
        data: The study.
        uri: Of the tracking store.
        files: Files to keep beside the campaign and the manifests, such as the report.

    Returns:
        Id of the study's run.

    Raises:
        UnavailableError: MLflow is not installed or its store does not answer.
    """
    mlflow = _mlflow()
    with _sound(mlflow, uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = _experiment(client, data, uri)
        run = _run(client, experiment, _key(data), {"mlflow.runName": data.campaign.name})
        _log(client, run, _params(data), _study_metrics(data))
        client.log_text(run, data.campaign_toml, "campaign.toml")
        for path in files:
            client.log_artifact(run, str(path))
        for key, variant in data.variants.items():
            text = msgspec.json.format(msgspec.json.encode(variant.manifest), indent=1).decode()
            client.log_text(run, text, f"manifests/{key}.json")
        cells = {cell.strategy: cell for cell in data.cells}
        for strategy in data.strategies:
            tags = {"mlflow.runName": strategy.id, "mlflow.parentRunId": run, _STRATEGY: strategy.id}
            child = _run(client, experiment, f"{_key(data)}/{strategy.id}", tags)
            _log(client, child, _strategy_params(data, strategy), _figures(data, strategy, cells.get(strategy.id)))
            client.set_terminated(child)
        client.set_terminated(run, "FINISHED" if data.complete else "KILLED")
    return str(run)


def _experiment(client: Any, data: StudyData, uri: str) -> str:
    name = f"tierwise/{data.campaign.name}"
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    # A store without a server keeps files where it is told to; the default is the current directory.
    where = None
    if uri.startswith("sqlite:///"):
        where = (Path(uri.removeprefix("sqlite:///")).resolve().parent / _ARTIFACTS).as_uri()
    return str(client.create_experiment(name, artifact_location=where))


def _key(data: StudyData) -> str:
    """Names the study: what was asked, of which task, and where it lies."""
    content = f"{data.directory.resolve()}\0{data.campaign_toml}\0{data.task_fingerprint}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _run(client: Any, experiment: str, key: str, tags: Mapping[str, str]) -> str:
    found = client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    return str(client.create_run(experiment, tags={_TAG: key, **tags}).info.run_id)


def _log(client: Any, run: str, params: Mapping[str, object], metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric, Param

    client.log_batch(
        run,
        metrics=[Metric(name, value, 0, 0) for name, value in metrics.items()],
        params=[Param(name, str(value)[:6000]) for name, value in params.items()],
    )


def _params(data: StudyData) -> dict[str, object]:
    measured = data.campaign.measured()
    return {
        "task": data.task_name,
        "task_fingerprint": data.task_fingerprint,
        "metric": data.metric,
        "topology": data.topology.name,
        "tiers": ",".join(tier.name for tier in data.topology.tiers),
        "scenario": data.campaign.scenario.TAG,
        "seed": data.campaign.seed,
        "sessions": measured.sessions,
        "rounds": measured.rounds,
        "samples": measured.samples,
        "scaling_factor": data.scaling.factor,
        "tierwise_version": data.tierwise_version,
    }


def _study_metrics(data: StudyData) -> dict[str, float]:
    return {
        "strategies": len(data.strategies),
        "records": len(data.records),
        "errors": sum(cell.errors for cell in data.cells),
        "complete": float(data.complete),
    }


def _strategy_params(data: StudyData, strategy: Strategy) -> dict[str, object]:
    variant = data.variants[strategy.variant]
    return {
        "chain": strategy.chain,
        "placement": strategy.placement,
        "path": ">".join(strategy.path),
        "variant": strategy.variant,
        "digest": variant.digest,
        "directory": str(data.directory / variant.directory),
    }


def _figures(data: StudyData, strategy: Strategy, cell: CellSummary | None) -> dict[str, float]:
    variant = data.variants[strategy.variant]
    found: dict[str, float | None] = {
        "artifact_bytes": variant.artifact_bytes,
        "training_s": variant.manifest.provenance.training_s,
        "agreement_frac": variant.agreement_frac,
    }
    for known in variant.manifest.accuracy:
        found[f"{known.split}_{known.metric}"] = known.value
        if known.split == "test":
            found["accuracy"] = known.value
    if variant.manifest.coverage is not None:
        found["int8_macs_frac"] = variant.manifest.coverage.int8_macs_frac
    if cell is not None:
        found |= {
            "requests": cell.requests,
            "errors": cell.errors,
            "bytes_up": cell.bytes_up,
            "bytes_down": cell.bytes_down,
            "throughput_per_s": cell.throughput_per_s,
        }
        if cell.latency is not None:
            found |= {"mean_s": cell.latency.mean_s, "p50_s": cell.latency.p50.value_s}
            found["p90_s"] = cell.latency.p90.value_s
            found["p99_s"] = None if cell.latency.p99 is None else cell.latency.p99.value_s
        if cell.cold_starts_s:
            found["cold_start_s"] = sum(cell.cold_starts_s) / len(cell.cold_starts_s)
    return {name: float(value) for name, value in found.items() if value is not None}


def _mlflow() -> Any:
    # What it says to its makers and on the screen is not asked for.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        import mlflow
        import sqlalchemy  # noqa: F401 - the SQLite store needs it, and mlflow-skinny does not bring it
    except ImportError as error:
        raise UnavailableError(
            f"logging to MLflow needs the packages of its extra ({error.name} is missing)",
            fix="Install them with: pip install 'tierwise[mlflow]'",
        ) from error
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


@contextmanager
def _sound(mlflow: Any, uri: str) -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (mlflow.exceptions.MlflowException, SQLAlchemyError, OSError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnavailableError(
            f"the MLflow store must take the study ({said})",
            where=uri,
            fix="The study itself is complete on disk; the same command logs it again",
        ) from error
