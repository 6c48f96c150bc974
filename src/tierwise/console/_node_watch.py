"""One node, looked at again and again."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final, final

from google.protobuf.message import DecodeError

from tierwise._clock import Clock
from tierwise._errors import InputError, RemoteError, TierwiseError
from tierwise.console._readings import Readings, Span
from tierwise.console._spec import Watched
from tierwise.wire import InferenceClient, ModelMetadata, status_of

__all__ = ["Glance", "NodeWatch", "Part"]

_PATIENCE_S: Final = 2.0
_SEGMENTS: Final = re.compile(r"(\d+):(\d+) of (\d+)")
# A stranger's node must not make a page without end.
_MOST_MODELS: Final = 100


@final
@dataclass(frozen=True)
class Part:
    """A model on a node: its share of an artifact.

    Attributes:
        model: Name it is served under.
        version: Its version.
        state: As the index has it: READY, UNAVAILABLE, ...
        reason: Why it is not ready.
        segments: (first, behind the last, all) of the artifact's segments; None where the server does not say.
        forward: Address the rest goes to; None where nothing does.
        forward_model: Name of the model there.
        digest: Of the artifact.
        label: What the deployer calls the loading.
    """

    model: str
    version: str
    state: str
    reason: str = ""
    segments: tuple[int, int, int] | None = None
    forward: str | None = None
    forward_model: str | None = None
    digest: str | None = None
    label: str | None = None


@final
@dataclass(frozen=True, eq=False)
class Glance:
    """What one look at a node saw.

    Attributes:
        state: ``up``; ``down`` (no answer); ``odd`` (it answers, but not all that a node of Tierwise does).
        reason: Why it is not up.
        since_s: Since when it is in that state, on this host's monotonic clock.
        version: What server it says it is.
        tier: What it calls itself; None where it never said.
        parts: Its models; of one that is down, those it had.
        span: What happened lately; None while it is down or tells no metrics.
    """

    state: str
    reason: str
    since_s: float
    version: str
    tier: str | None
    parts: tuple[Part, ...]
    span: Span | None


@final
class NodeWatch:
    """Looks at one node; for one thread at a time.

    Args:
        watched: The node.
        window_s: How far back its figures reach.
        clock: The host's clock.
    """

    def __init__(self, watched: Watched, window_s: float, clock: Clock) -> None:
        self.watched = watched
        self._window_s, self._clock = window_s, clock
        self._client = InferenceClient(watched.address, timeout_s=_PATIENCE_S)
        self._readings: deque[Readings] = deque()
        self._parts: dict[tuple[str, str], tuple[float, Part]] = {}
        self._state, self._since_s = "", 0.0
        self._version, self._tier = "", watched.tier

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def look(self) -> Glance:
        """Look at the node; never raises for what the node does."""
        try:
            server = self._client.server_metadata()
        except RemoteError as error:
            self._readings.clear()
            return self._glance("down", status_of(error).name.lower().replace("_", " "), None)
        except DecodeError:
            self._readings.clear()
            return self._glance("odd", "does not speak the Open Inference Protocol v2", None)
        self._version = f"{server.name} {server.version}"
        try:
            self._look_at_models()
            span = self._look_at_metrics()
        except DecodeError:
            return self._glance("odd", "does not keep to the Open Inference Protocol v2", None)
        except TierwiseError as error:
            said = status_of(error).name.lower() if isinstance(error, RemoteError) else str(error)[:200]
            return self._glance("odd", f"tells no metrics ({said})", None)
        self._tier = next((have["tier"] for have, _ in span.later.each("tierwise_node_info") if "tier" in have), None)
        return self._glance("up", "", span)

    def _glance(self, state: str, reason: str, span: Span | None) -> Glance:
        if state != self._state:
            self._state, self._since_s = state, self._clock.now_ns() / 1e9
        parts = tuple(part for _, part in self._parts.values())
        return Glance(state, reason, self._since_s, self._version, self._tier, parts, span)

    def _look_at_models(self) -> None:
        now_s = self._clock.now_ns() / 1e9
        found: dict[tuple[str, str], tuple[float, Part]] = {}
        for status in self._client.index()[:_MOST_MODELS]:
            key = (status.name, status.version)
            if status.state != "READY":
                found[key] = (now_s, Part(status.name, status.version, status.state, status.reason))
                continue
            known = self._parts.get(key)
            # What a model is changes when it is loaded anew; asking for all of it at every look would be work for
            # nothing.
            if known is not None and known[1].state == "READY" and now_s - known[0] < 5.0:
                found[key] = known
            else:
                found[key] = (now_s, _part(self._client.model_metadata(status.name), status.version))
        self._parts = found

    def _look_at_metrics(self) -> Span:
        try:
            now = Readings.parse(self._client.metrics(), self._clock.now_ns() / 1e9)
        except (RemoteError, InputError):
            self._readings.clear()
            raise
        begun = "process_start_time_seconds"
        if self._readings and self._readings[-1].value(begun) != now.value(begun):
            self._readings.clear()  # another process: its counters began anew
        self._readings.append(now)
        while len(self._readings) > 2 and self._readings[1].at_s <= now.at_s - self._window_s:
            self._readings.popleft()
        return Span(self._readings[0] if len(self._readings) > 1 else None, now)


def _part(metadata: ModelMetadata, version: str) -> Part:
    told = metadata.properties
    found = _SEGMENTS.fullmatch(told.get("tierwise.segments", ""))
    forward, _, forward_model = told.get("tierwise.forward", "").partition(" ")
    return Part(
        model=metadata.name,
        version=version,
        state="READY",
        segments=(int(found[1]), int(found[2]), int(found[3])) if found else None,
        forward=forward or None,
        forward_model=forward_model or None,
        digest=told.get("tierwise.digest"),
        label=told.get("tierwise.label"),
    )
