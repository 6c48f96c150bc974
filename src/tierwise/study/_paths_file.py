"""Several deployed strategies as the paths of one adaptive pipeline, in the file it reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tierwise._errors import InputError
from tierwise.runtime import Paths, PathSpec
from tierwise.study._deployment import DeploymentPlan
from tierwise.study._toml import toml_text
from tierwise.topology import Topology

__all__ = ["adaptive_paths", "write_paths"]


def adaptive_paths(plans: Sequence[DeploymentPlan], topology: Topology) -> Paths:
    """The paths that deployed strategies make for a client on the topology's lowest tier.

    A strategy that stays on that tier crosses no link; of the others, those that climb to the same tier share one.

    Args:
        plans: What is deployed.
        topology: The tiers, the device first.

    Raises:
        InputError: The strategies take different inputs, or an artifact's accuracy is not known.
    """
    device = topology.tiers[0].name
    encodings = {repr(plan.artifact.manifest.input): plan.artifact.manifest.input for plan in plans}
    if len(encodings) != 1:
        raise InputError("all paths must take the same input", got=f"{len(encodings)} different encodings")
    return Paths(paths=tuple(_path(plan, device) for plan in plans), input=next(iter(encodings.values())))


def write_paths(file: Path, paths: Paths) -> None:
    """Write a file that `tierwise.runtime.load_paths` reads; what was there is replaced at once or not at all.

    Raises:
        InputError: It cannot be written.
    """
    stage = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        stage.write_text(toml_text(paths), encoding="utf-8")
        stage.replace(file)
    except OSError as error:
        raise InputError(f"the file must be writable ({error.strerror})", where=file) from error


def _path(plan: DeploymentPlan, device: str) -> PathSpec:
    first, last = plan.hops[0], plan.hops[-1]
    stays = len(plan.hops) == 1 and first.tier == device
    return PathSpec(
        name=plan.name,
        accuracy_frac=_accuracy_frac(plan),
        node=first.placed.control,
        model=plan.name,
        link=None if stays else f"{device} to {last.tier}",
        over_link=first.tier != device,
        probe=last.placed.control if len(plan.hops) > 1 else None,
    )


def _accuracy_frac(plan: DeploymentPlan) -> float:
    for accuracy in plan.artifact.manifest.accuracy:
        if accuracy.split == "test":
            return accuracy.value
    raise InputError(
        f"the accuracy of {plan.strategy} on the test split must be known to order the paths",
        where=plan.artifact.directory,
        fix="Run the study to its end first",
    )
