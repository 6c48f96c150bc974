"""An artifact onto nodes, and off them again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from tierwise._errors import RemoteError, SpecError
from tierwise.artifact import Artifact, read_files
from tierwise.runtime._spec import Placed
from tierwise.wire import InferenceClient

__all__ = ["deploy", "undeploy"]


def deploy(
    artifact: Artifact,
    name: str,
    placement: Sequence[Placed],
    timeout_s: float = 300.0,
    on_loaded: Callable[[Placed], None] | None = None,
) -> None:
    """Push an artifact to its nodes, the last of the chain first, so that no node forwards to one that is not ready.

    Args:
        artifact: What to deploy.
        name: Name to serve it under (on nodes that others forward to: the forwarding share's ``forward_model``).
        placement: Nodes in the order a request passes them.
        timeout_s: Time each node has to receive and load it.
        on_loaded: Called after each node that has it.

    Raises:
        SpecError: The shares are not a chain through all segments.
        RemoteError: A node failed; the model is taken off those that had loaded it. (A model that was served there
            under the same name before is gone; deploy under a new name to keep it.)
    """
    names = _check_chain(artifact, name, placement)
    files = read_files(artifact)
    loaded: list[tuple[Placed, str]] = []
    try:
        for placed, served_as in reversed(list(zip(placement, names, strict=True))):
            with InferenceClient(placed.control) as client:
                client.load(served_as, msgspec.json.encode(placed.share), files, timeout_s)
            loaded.append((placed, served_as))
            if on_loaded is not None:
                on_loaded(placed)
    except BaseException:
        for placed, served_as in reversed(loaded):
            with contextlib.suppress(RemoteError), InferenceClient(placed.control) as client:
                client.unload(served_as)
        raise


def undeploy(name: str, placement: Sequence[Placed]) -> None:
    """Take a model off its nodes, the first of the chain first; all are tried.

    Raises:
        RemoteError: A node could not be reached or did not serve it (the first such error).
    """
    first: RemoteError | None = None
    for placed, served_as in zip(placement, _names(name, placement), strict=True):
        try:
            with InferenceClient(placed.control) as client:
                client.unload(served_as)
        except RemoteError as error:
            first = first or error
    if first is not None:
        raise first


def _names(name: str, placement: Sequence[Placed]) -> list[str]:
    names = [name]
    for placed in placement[:-1]:
        names.append(placed.share.forward_model or names[-1])
    return names


def _check_chain(artifact: Artifact, name: str, placement: Sequence[Placed]) -> list[str]:
    count, at = len(artifact.manifest.segments), 0
    for i, placed in enumerate(placement):
        first, last = placed.share.segments or (0, count)
        where = f"placement[{i}]"
        if first != last and first != at:
            raise SpecError(f"the share must begin at segment {at}", got=f"[{first}, {last})", where=where)
        at = max(at, last)
        if (placed.share.forward is None) != (i == len(placement) - 1):
            raise SpecError("every share but the last must forward", got=repr(placed.share.forward), where=where)
    if at != count:
        raise SpecError(f"the shares must cover all {count} segments", got=at, where=name)
    return _names(name, placement)
