"""From a study directory and a strategy's id to what is pushed where."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import Any

from tierwise._errors import InputError
from tierwise.study._deployment import DeploymentPlan
from tierwise.study._golden import GOLDEN, Golden, made_up
from tierwise.study._placement import hops_of
from tierwise.study._read import load_study
from tierwise.study._results import StudyData
from tierwise.study._store import Store
from tierwise.study._stored import open_variant
from tierwise.topology import Topology

__all__ = ["plan_deployment"]

_LONGEST_NAME = 100


def plan_deployment(directory: Path, strategy_id: str, topology: Topology, name: str | None = None) -> DeploymentPlan:
    """Plan the deployment of a strategy.

    Args:
        directory: The study's directory.
        strategy_id: Such as ``sptq+partition@mobile|edge``.
        topology: Its tiers name the addresses of nodes that run.
        name: What clients ask for; None: the strategy's id.

    Raises:
        StoreError: No study, or its artifact is not the one that was measured.
        ArtifactError: The artifact cannot be opened, or a file of it was changed.
        InputError: No such strategy.
        SpecError: The topology does not fit the strategy.
    """
    data = load_study(directory)
    ids = [strategy.id for strategy in data.strategies]
    if strategy_id not in ids:
        raise InputError("the study must have the strategy", got=f"{strategy_id!r} (it has {', '.join(ids)})")
    strategy = data.strategy(strategy_id)
    variant = data.variants[strategy.variant]
    artifact = open_variant(directory, variant.directory, variant.digest)
    name = name or strategy_id
    if len(name) > _LONGEST_NAME:
        raise InputError(f"a name must have at most {_LONGEST_NAME} characters", got=len(name), where="--name")
    if "/" in name or name.startswith("."):
        raise InputError("a name must not hold a slash nor begin with a dot", got=repr(name), where="--name")
    with contextlib.closing(Store(directory, write=False)) as store:
        golden = store.fact(GOLDEN, Golden)
    return DeploymentPlan(
        directory=directory,
        name=name,
        strategy=strategy_id,
        hops=hops_of(strategy, len(artifact.manifest.segments), topology),
        artifact=artifact,
        golden=made_up(artifact.manifest.input) if golden is None else golden.tensors(),
        load_s=_load_s(data, strategy_id),
    )


def _load_s(data: StudyData, strategy_id: str) -> float | None:
    loads: list[Any] = [load for cell in data.cells if cell.strategy == strategy_id for load in cell.cold_load_s]
    return statistics.median(loads) if loads else None
