"""A new version beside the served one, and the switch between them in one step.

Nodes ask each other for a version that no other rollout has; clients ask the first node for a name that stays. The
first node replaces what it serves under a name at once, so that changing that one entry switches the whole chain.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, final

import grpc
import msgspec
import numpy as np

from tierwise._config import Spec
from tierwise._errors import RemoteError
from tierwise.artifact import Artifact, read_files
from tierwise.runtime._deploy import deploy
from tierwise.runtime._probe import PROBE
from tierwise.runtime._spec import Placed
from tierwise.wire import InferenceClient, status_of

__all__ = ["NodeSurvey", "Rollout", "is_serving", "roll_out", "survey", "withdraw"]

_LABEL: Final = "tierwise.label"
_EXTENSION: Final = "model_repository"
_PROBE_BYTES: Final = 256 << 10


class Rollout(Spec, frozen=True, kw_only=True):
    """One version of a model on its nodes.

    Attributes:
        name: What clients ask the first node for.
        version: What the nodes ask each other for; no two rollouts share one.
        placement: Nodes in the order a request passes them, with shares that carry the version as their label.
    """

    name: str
    version: str
    placement: Annotated[tuple[Placed, ...], msgspec.Meta(min_length=1)]

    @staticmethod
    def of(artifact: Artifact, name: str, placement: Sequence[Placed]) -> Rollout:
        """A rollout of ``artifact`` under a version of its own."""
        version = f"{name}:{artifact.digest[:8]}-{secrets.token_hex(3)}"
        labelled = tuple(
            msgspec.structs.replace(placed, share=msgspec.structs.replace(placed.share, label=version))
            for placed in placement
        )
        return Rollout(name=name, version=version, placement=labelled)


def roll_out(
    artifact: Artifact,
    rollout: Rollout,
    check: Callable[[str], None],
    *,
    timeout_s: float = 300.0,
    on_loaded: Callable[[Placed], None] | None = None,
) -> None:
    """Load a version beside what is served, check it end to end, and only then switch the name to it.

    Whatever fails, the name goes on as before and the version is taken off all nodes that can be reached.

    Args:
        artifact: What to serve.
        rollout: Where.
        check: Asks the first node for the model of the name it is given; raises where the answer is not right.
        timeout_s: Time each node has to receive and load it.
        on_loaded: Called after each node that has the version.

    Raises:
        RemoteError: A node failed.
        TierwiseError: What ``check`` raises.
    """
    first = rollout.placement[0]
    try:
        deploy(artifact, rollout.version, rollout.placement, timeout_s, on_loaded)
        check(rollout.version)
        onward = None if first.share.forward is None else rollout.version
        share = msgspec.structs.replace(first.share, forward_model=onward)
        with InferenceClient(first.control) as client:
            try:
                client.load(rollout.name, msgspec.json.encode(share), read_files(artifact), timeout_s)
            except RemoteError:
                # The node may have switched though its answer got lost; what it says now is what counts.
                if not is_serving(rollout):
                    raise
            # It was there for the check, and does no harm where it stays.
            with contextlib.suppress(RemoteError):
                client.unload(rollout.version)
    except BaseException:
        # Also from a node whose loading was given up here: it goes on, and the unloading waits for it.
        switched = False
        with contextlib.suppress(RemoteError):
            switched = is_serving(rollout)
        if not switched:
            withdraw(rollout)
        raise


def is_serving(rollout: Rollout) -> bool:
    """Whether the first node serves this very rollout under its name.

    Raises:
        RemoteError: The node cannot be asked.
    """
    first = rollout.placement[0]
    with InferenceClient(first.control) as client:
        try:
            return client.model_metadata(rollout.name).properties.get(_LABEL) == rollout.version
        except RemoteError as error:
            if status_of(error) is grpc.StatusCode.NOT_FOUND:
                return False
            raise


def withdraw(rollout: Rollout, drain_s: float = 0.0) -> tuple[RemoteError, ...]:
    """Take a version off its nodes, the first of the chain first, and its name with it where that is still its own.

    Args:
        rollout: What to take off. Nodes that do not have it (any more) are left alone.
        drain_s: Time that requests under way get before the nodes above forget the version.

    Returns:
        What failed, one error per node; the others are free of it.
    """
    failed: list[RemoteError] = []
    for position, placed in enumerate(rollout.placement):
        try:
            with InferenceClient(placed.control) as client:
                if position == 0 and is_serving(rollout):
                    client.unload(rollout.name)
                _unload(client, rollout.version)
        except RemoteError as error:
            failed.append(error)
        if position == 0 and len(rollout.placement) > 1 and drain_s > 0:
            time.sleep(drain_s)
    return tuple(failed)


@final
@dataclass(frozen=True)
class NodeSurvey:
    """A node as it was found.

    Attributes:
        label: Label of what it serves under the name that was asked for; empty where that has none, None where it
            serves nothing under it.
        rtt_s: Time of a small request.
        up_bps: Rate at which it takes bytes from here.
    """

    label: str | None
    rtt_s: float
    up_bps: float


def survey(address: str, name: str, wait_s: float = 3.0) -> NodeSurvey:
    """Look at a node before anything is sent to it.

    Raises:
        RemoteError: It does not answer, or does not take models.
    """
    with InferenceClient(address, timeout_s=10.0) as client:
        if not client.live(wait_s):
            raise RemoteError(
                f"a node must answer within {wait_s:g} s",
                where=address,
                fix="Start it there: tierwise node --listen ADDRESS",
            )
        if _EXTENSION not in client.server_metadata().extensions:
            raise RemoteError(f"the server must have the extension {_EXTENSION}", where=address)
        try:
            label: str | None = client.model_metadata(name).properties.get(_LABEL, "")
        except RemoteError as error:
            if status_of(error) is not grpc.StatusCode.NOT_FOUND:
                raise
            label = None
        rtt_s = _probe_s(client, 1)
        carried_s = max(_probe_s(client, _PROBE_BYTES) - rtt_s, 1e-6)
        return NodeSurvey(label=label, rtt_s=rtt_s, up_bps=8 * _PROBE_BYTES / carried_s)


def _probe_s(client: InferenceClient, size: int) -> float:
    took_s = []
    for _ in range(2):
        started_s = time.perf_counter()
        client.infer(PROBE, {"blob": np.zeros(size, dtype=np.uint8)})
        took_s.append(time.perf_counter() - started_s)
    return min(took_s)


def _unload(client: InferenceClient, name: str) -> None:
    try:
        client.unload(name)
    except RemoteError as error:
        if status_of(error) is not grpc.StatusCode.NOT_FOUND:
            raise
