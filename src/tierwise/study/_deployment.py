"""Strategies of a study on running nodes, with a record of each deployment, so that it can be taken back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

import msgspec

from tierwise import __version__
from tierwise._config import Spec
from tierwise._errors import InputError, RemoteError, StoreError
from tierwise.artifact import Artifact
from tierwise.measure import Progress
from tierwise.runtime import NodeSurvey, Rollout, is_serving, roll_out, survey, withdraw
from tierwise.study._golden import deviation_frac, expected_outputs
from tierwise.study._lock import locked
from tierwise.study._placement import Hop
from tierwise.wire import InferenceClient

__all__ = ["Deployment", "DeploymentPlan", "deploy_plan", "find_deployment", "survey_nodes", "undeploy"]

_FOLDER: Final = "deployments"
_PENDING: Final = ".pending"
_ANSWER_S: Final = 60.0


class Deployment(Spec, frozen=True, kw_only=True):
    """A strategy that is deployed; what ``deployments/NAME.json`` in the study's directory holds.

    Attributes:
        format: Version of this structure.
        strategy: Id of the strategy.
        digest: SHA-256 of the artifact's manifest.
        tiers: Tier of each node, in the order of the placement.
        rollout: The nodes, the name they serve it under, and the version.
        deployed_at: When, UTC, ISO 8601.
        deviation_frac: How far the golden answer was from the artifact's own, as a share of its range.
        tierwise_version: Version that deployed it.
    """

    format: int = 1
    strategy: str
    digest: str
    tiers: tuple[str, ...]
    rollout: Rollout
    deployed_at: str
    deviation_frac: float | None = None
    tierwise_version: str = __version__


@final
@dataclass(frozen=True)
class DeploymentPlan:
    """What shall be deployed.

    Attributes:
        directory: The study's.
        name: What clients will ask for.
        strategy: Id of the strategy.
        hops: Nodes in the order a request passes them.
        artifact: Opened and verified.
        golden: Tensors of the request that the deployment must answer as the artifact does.
        load_s: Seconds that creating the sessions took in the study, all nodes together; None where not measured.
    """

    directory: Path
    name: str
    strategy: str
    hops: tuple[Hop, ...]
    artifact: Artifact
    golden: dict[str, Any]
    load_s: float | None

    @property
    def pushed_bytes(self) -> int:
        """Bytes that every node receives: all of the artifact, which is verified there."""
        return self.artifact.nbytes

    def seconds(self, surveys: Sequence[NodeSurvey]) -> float:
        """Estimate of how long deploying takes, from what the nodes' survey measured (the first node loads twice)."""
        carried = [8 * self.pushed_bytes / found.up_bps + found.rtt_s for found in surveys]
        return sum(carried) + carried[0] + 2 * (self.load_s or 0.0)


def survey_nodes(plan: DeploymentPlan, *, replace: bool = False) -> tuple[NodeSurvey, ...]:
    """Look at all nodes of a plan; nothing is changed on them.

    Raises:
        RemoteError: A node does not answer, or takes no models; the message names its tier.
        StoreError: The first node serves something else under the name, and ``replace`` does not allow that.
    """
    found = []
    for hop in plan.hops:
        try:
            found.append(survey(hop.placed.control, plan.name))
        except RemoteError as error:
            raise _of_tier(error, hop.tier) from error
    known = {record.rollout.version for record in _records(plan.directory, plan.name)}
    if found[0].label is not None and found[0].label not in known and not replace:
        raise StoreError(
            f"the node must not serve {plan.name!r} yet, or serve it from this study",
            got=f"a model that was deployed otherwise ({found[0].label or 'without a label'})",
            where=plan.hops[0].placed.control,
            fix="Deploy under another --name, take that one back first, or allow it with --replace",
        )
    return tuple(found)


def deploy_plan(
    plan: DeploymentPlan,
    progress: Progress,
    *,
    tolerance_frac: float = 0.02,
    drain_s: float = 5.0,
    replace: bool = False,
) -> Deployment:
    """Deploy, check with the golden input, switch the name to it, and take the version before off the nodes.

    Until the switch, what was served under the name goes on; where anything fails, every node is left as it was. It may
    be killed at any moment: the next deployment or undeployment under the name cleans up.

    Args:
        plan: What to deploy.
        progress: Shows the steps.
        tolerance_frac: How far the golden answer may be from the artifact's own, as a share of its range.
        drain_s: Time that requests under way get before the version before them goes.
        replace: Take the name over from a model this study did not deploy.

    Raises:
        RemoteError: A node failed, or the answer is not the artifact's; nodes are as before.
        StoreError: See `survey_nodes`; or another process deploys from this study.
    """
    folder = plan.directory / _FOLDER
    with locked(folder, "the deployments of a study"):
        _recover(plan.directory, plan.name, progress)
        survey_nodes(plan, replace=replace)
        with progress.step("run the golden input here", None):
            expected = expected_outputs(plan.artifact, plan.golden)
        rollout = Rollout.of(plan.artifact, plan.name, [hop.placed for hop in plan.hops])
        begun = Deployment(
            strategy=plan.strategy,
            digest=plan.artifact.digest,
            tiers=tuple(hop.tier for hop in plan.hops),
            rollout=rollout,
            deployed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        before = _read(_path(plan.directory, plan.name))
        pending = _path(plan.directory, plan.name, _PENDING)
        _write(pending, begun)
        done = begun
        try:
            with progress.step(f"deploy {plan.name}", len(plan.hops) + 1) as advance:

                def check(model: str) -> None:
                    nonlocal done
                    found = _checked(plan, expected, model, tolerance_frac)
                    done = msgspec.structs.replace(begun, deviation_frac=found)
                    advance(1)

                roll_out(plan.artifact, rollout, check, on_loaded=lambda placed: advance(1))
        except RemoteError as error:
            _recover(plan.directory, plan.name, progress)
            raise _named(error, plan.hops) from error
        except BaseException:
            _recover(plan.directory, plan.name, progress)
            raise
        _commit(plan.directory, done, before, drain_s, progress)
    return done


def undeploy(directory: Path, deployment: Deployment, progress: Progress, *, force: bool = False) -> None:
    """Take a deployment back: off its nodes, and its record away.

    Args:
        directory: The study's.
        deployment: From `find_deployment`.
        progress: Shows what is done.
        force: Forget nodes that do not answer.

    Raises:
        RemoteError: A node could not be reached; the others are free of it, and the record stays for another try.
    """
    name = deployment.rollout.name
    with locked(directory / _FOLDER, "the deployments of a study"):
        _recover(directory, name, progress)
        record = _read(_path(directory, name))
        if record is not None:
            failed = withdraw(record.rollout)
            if failed and not force:
                raise RemoteError(
                    f"every node must give {name!r} back ({failed[0]})",
                    fix="The others have. Try again when that node answers, or forget it with --force",
                )
            for error in failed:
                progress.say(f"Forgotten: {error}")
            _path(directory, name).unlink()


def find_deployment(directory: Path, wanted: str) -> Deployment:
    """The deployment of a study by its name or by the strategy's id.

    Raises:
        InputError: None or several fit.
    """
    records = [record for record in _records(directory) if wanted in (record.rollout.name, record.strategy)]
    exact = {record.rollout.name: record for record in records}
    if wanted in exact:
        return exact[wanted]
    if len(exact) != 1:
        names = ", ".join(sorted({record.rollout.name for record in _records(directory)})) or "nothing"
        raise InputError(
            "a deployment must be named by its name or its strategy",
            got=f"{wanted!r} (deployed: {names})",
            where=directory,
        )
    return next(iter(exact.values()))


def _checked(plan: DeploymentPlan, expected: dict[str, Any], model: str, tolerance_frac: float) -> float:
    first = plan.hops[0].placed.control
    with InferenceClient(first, timeout_s=_ANSWER_S) as client:
        answer = client.infer(model, plan.golden)
    found = deviation_frac(expected, answer.outputs, first)
    if found > tolerance_frac:
        raise RemoteError(
            f"the golden answer must be the artifact's own within {tolerance_frac:.2g} of its range",
            got=f"{found:.2g}",
            where=first,
            fix="Look whether every address reaches the node it should (tierwise infer shows the path)",
        )
    return found


def _commit(directory: Path, done: Deployment, before: Deployment | None, drain_s: float, progress: Progress) -> None:
    """The new record takes the place of the old one, and the old version leaves the nodes."""
    name = done.rollout.name
    if before is not None and len(before.rollout.placement) > 1 and drain_s > 0:
        # Its requests under way still need the version before on the upper nodes.
        with progress.step(f"let requests under way finish ({drain_s:g} s)", None):
            time.sleep(drain_s)
    failed = withdraw(before.rollout) if before is not None else ()
    for error in failed:
        progress.say(f"The version before could not be taken off: {error}")
    _write(_path(directory, name), done)
    _path(directory, name, _PENDING).unlink(missing_ok=True)


def _recover(directory: Path, name: str, progress: Progress) -> None:
    """Finish or take back what a deployment left that was stopped."""
    path = _path(directory, name, _PENDING)
    pending = _read(path)
    if pending is None:
        return
    switched = False
    try:
        switched = is_serving(pending.rollout)
    except RemoteError as error:
        progress.say(f"Not known whether {pending.rollout.version} is served: {error}")
    if switched:
        _commit(directory, pending, _read(_path(directory, name)), 0.0, progress)
        return
    for failure in withdraw(pending.rollout):
        progress.say(f"Left on a node that does not answer ({pending.rollout.version}): {failure}")
    path.unlink()


def _named(error: RemoteError, hops: Sequence[Hop]) -> RemoteError:
    """The error with the tier of the node it comes from."""
    hop = next((hop for hop in hops if hop.placed.control == error.where), None)
    return error if hop is None else _of_tier(error, hop.tier)


def _of_tier(error: RemoteError, tier: str) -> RemoteError:
    return RemoteError(error.must, got=error.got, where=f"tier {tier} at {error.where}", fix=error.fix)


def _path(directory: Path, name: str, state: str = "") -> Path:
    return directory / _FOLDER / f"{name}{state}.json"


def _records(directory: Path, name: str | None = None) -> Iterator[Deployment]:
    """All records, those of stopped deployments included."""
    for path in sorted((directory / _FOLDER).glob("*.json")):
        record = _read(path)
        if record is not None and name in (None, record.rollout.name):
            yield record


def _read(path: Path) -> Deployment | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Deployment)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(
            f"a deployment's record must be readable ({error})", where=path, fix="Restore it, or delete that file"
        ) from error


def _write(path: Path, deployment: Deployment) -> None:
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    with stage.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(deployment), indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    stage.replace(path)
