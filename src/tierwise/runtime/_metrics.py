"""What a node counts and times, in Prometheus' terms; one registry for each node, nothing shared by a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final, final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from tierwise import __version__
from tierwise.measure import STAGES
from tierwise.runtime._histograms import Histogram, Histograms
from tierwise.runtime._link_state import LinkState

__all__ = ["CLIENTS", "OTHER", "NodeMetrics"]

CLIENTS: Final = "clients"
"""The label of the link to whoever asks this node."""

OTHER: Final = "other"
"""The label of everything beyond the bounds."""

# Five a decade from 10 us to 10 s: a quantile read off them is within a quarter of the truth.
_SECONDS: Final = tuple(float(f"{1e-5 * 10 ** (i / 5):.2g}") for i in range(31))
_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
# A series for each model and stage: a repository of thousands of models must not become millions of series.
_MOST_MODELS: Final = 100
_MOST_LINKS: Final = 50


@final
class NodeMetrics:
    """The metrics of one node; may be used from several threads.

    Labels hold only what the node's owner decides: models that were loaded, the addresses their shares forward to,
    codes and stages of this program. What a client makes up never becomes a label. Beyond 100 models and 50 links,
    further ones are counted together as ``other``.

    Args:
        tier: The node's tier.

    Attributes:
        registry: What a collector of another make may be added to.
    """

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.registry = CollectorRegistry()
        self._vectors = vectors = _Vectors(self.registry)
        self._mutex = threading.Lock()
        self._models: dict[tuple[str, str], _ModelMeters] = {}
        self._other: _ModelMeters | None = None
        self._links: dict[str, _LinkMeters] = {}
        self._clients = _LinkMeters(vectors, tier, CLIENTS)
        self._loaded = vectors.models_loaded.labels(tier)
        self._under_way = vectors.under_way.labels(tier)
        self._served: set[tuple[str, str]] = set()
        self._refusals: dict[str, Counter] = {}
        vectors.node.labels(tier, __version__).set(1)
        ProcessCollector(registry=self.registry)

    def loaded(self, model: str, version: str) -> None:
        """A model is served from now on; only such models get a label."""
        with self._mutex:
            if (model, version) not in self._models and len(self._models) < _MOST_MODELS:
                self._models[model, version] = _ModelMeters(self._vectors, self.tier, model, version)
            self._served.add((model, version))
            self._loaded.set(len(self._served))

    def unloaded(self, model: str, version: str) -> None:
        """A model is served no longer; its series end."""
        with self._mutex:
            meters = self._models.pop((model, version), None)
            self._served.discard((model, version))
            self._loaded.set(len(self._served))
        if meters is not None:
            meters.forget()

    def begun(self) -> None:
        """A request was let in; `ended` follows."""
        self._under_way.inc()

    def ended(self) -> None:
        """A request that was let in is over."""
        self._under_way.dec()

    def answered(
        self,
        model: str,
        version: str,
        request_s: float,
        stages: Iterable[tuple[str, str, int]],
        batch_size: int,
        received_bytes: int,
        sent_bytes: int,
    ) -> None:
        """A request was answered.

        Args:
            model: The model that was served.
            version: Its version.
            request_s: From the arrival of its bytes to the departure of the answer's.
            stages: (tier, stage, nanoseconds); those of other tiers are theirs to count.
            batch_size: Items that were computed at once, others' among them; 0 where nothing was computed here.
            received_bytes: Size of the request's message.
            sent_bytes: Size of the answer's.
        """
        meters = self._of(model, version)
        meters.request.observe(request_s)
        if batch_size:
            meters.batch.observe(batch_size)
        for tier, stage, ns in stages:
            if tier == self.tier:
                meters.stage(stage, ns / 1e9)
        self._clients.moved(sent_bytes, received_bytes)

    def refused(self, code: str) -> None:
        """A request was not answered but refused or failed, with one of this program's codes."""
        counter = self._refusals.get(code)
        if counter is None:
            counter = self._refusals[code] = self._vectors.refusals.labels(self.tier, code)
        counter.inc()

    def forwarded(self, link: str, peer: str, way_s: float | None, sent_bytes: int, received_bytes: int) -> None:
        """A request went over a link and its answer came back.

        Args:
            link: Address of the node above.
            peer: The tier it says it is.
            way_s: Time on the way, both ways together, without what the node above did; None where it is not known.
            sent_bytes: Size of the message sent.
            received_bytes: Size of the answer.
        """
        self._link(link).saw(peer, way_s, sent_bytes, received_bytes)

    def forward_failed(self, link: str, code: str) -> None:
        """A request went over a link and no answer came back, with one of gRPC's codes."""
        self._link(link).failed(code)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format (UTF-8)."""
        return generate_latest(self.registry)

    def _of(self, model: str, version: str) -> _ModelMeters:
        found = self._models.get((model, version)) or self._other
        if found is None:
            found = self._other = _ModelMeters(self._vectors, self.tier, OTHER, OTHER)
        return found

    def _link(self, address: str) -> _LinkMeters:
        found = self._links.get(address)
        if found is None:
            with self._mutex:
                label = address if address in self._links or len(self._links) < _MOST_LINKS else OTHER
                found = self._links.setdefault(label, _LinkMeters(self._vectors, self.tier, label))
        return found


@final
class _Vectors:
    """The metrics without their labels' values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tierwise_{name}", text, ("tier", *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"tierwise_{name}", text, ("tier", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histograms:
            return Histograms(f"tierwise_{name}", text, buckets, ("tier", *labels), registry)

        of_model = ("model", "version")
        self.node = gauge("node_info", "The node itself; always 1.", "version")
        self.request = histogram(
            "request_seconds", "From the arrival of a request's bytes to its answer.", _SECONDS, *of_model
        )
        self.stage = histogram(
            "stage_seconds", "Time of this tier's stages of answered requests.", _SECONDS, *of_model, "stage"
        )
        self.batch = histogram("batch_items", "Items computed at once, by answered request.", _SIZES, *of_model)
        self.under_way = gauge("requests_under_way", "Requests this node holds now, waiting or computing.")
        self.refusals = counter("refusals", "Requests that were refused or failed.", "code")
        self.models_loaded = gauge("models_loaded", "Models served, the built-in one included.")
        self.sent = counter("link_sent_bytes", "Message bytes sent over a link.", "link")
        self.received = counter("link_received_bytes", "Message bytes received over a link.", "link")
        self.forwards = counter("link_forwards", "Requests that went over a link and were answered.", "link")
        self.failures = counter("link_failures", "Requests that went over a link without an answer.", "link", "code")
        self.up = gauge("link_up", "Whether the last request over a link was answered.", "link")
        self.rtt = gauge("link_rtt_seconds", "Round trip of a small message, as late forwards tell.", "link")
        self.goodput = gauge(
            "link_goodput_bytes_per_second", "Message bytes a second, as late large forwards tell.", "link", "direction"
        )
        self.peer = gauge("link_peer_info", "The tier that answers over a link; always 1.", "link", "peer")


@final
class _ModelMeters:
    """One model's metrics with their labels looked up."""

    def __init__(self, vectors: _Vectors, tier: str, model: str, version: str) -> None:
        self._vectors, self._labels = vectors, (tier, model, version)
        self.request = vectors.request.labels(*self._labels)
        self.batch = vectors.batch.labels(*self._labels)
        self._mutex = threading.Lock()
        self._stages: dict[str, Histogram] = {}
        self._gone = False

    def stage(self, stage: str, seconds: float) -> None:
        meter = self._stages.get(stage) or self._looked_up(stage if stage in STAGES else OTHER)
        if meter is not None:
            meter.observe(seconds)

    def forget(self) -> None:
        self._vectors.request.remove(*self._labels)
        self._vectors.batch.remove(*self._labels)
        with self._mutex:
            self._gone = True
            for stage in self._stages:
                self._vectors.stage.remove(*self._labels, stage)

    def _looked_up(self, label: str) -> Histogram | None:
        """Looking a label up makes its series: none for a model that a late answer's thread still holds."""
        with self._mutex:
            if not self._gone and label not in self._stages:
                self._stages[label] = self._vectors.stage.labels(*self._labels, label)
            return self._stages.get(label)


@final
class _LinkMeters:
    """One link's metrics with their labels looked up."""

    def __init__(self, vectors: _Vectors, tier: str, link: str) -> None:
        self._vectors, self._labels = vectors, (tier, link)
        self._sent, self._received = vectors.sent.labels(tier, link), vectors.received.labels(tier, link)
        self._lately: _LatelyMeters | None = None

    def moved(self, sent_bytes: int, received_bytes: int) -> None:
        self._sent.inc(sent_bytes)
        self._received.inc(received_bytes)

    def saw(self, peer: str, way_s: float | None, sent_bytes: int, received_bytes: int) -> None:
        self.moved(sent_bytes, received_bytes)
        if self._lately is None:
            # The links that are asked only, not that to the clients, have these.
            self._lately = _LatelyMeters(self._vectors, self._labels)
        self._lately.saw(peer, way_s, sent_bytes, received_bytes)

    def failed(self, code: str) -> None:
        self._vectors.failures.labels(*self._labels, code).inc()
        self._vectors.up.labels(*self._labels).set(0)


@final
class _LatelyMeters:
    """What one link did lately, with its labels looked up."""

    def __init__(self, vectors: _Vectors, labels: tuple[str, str]) -> None:
        self._vectors, self._labels = vectors, labels
        self._forwards, self._up = vectors.forwards.labels(*labels), vectors.up.labels(*labels)
        self._mutex = threading.Lock()
        self._state = LinkState()
        self._peer: str | None = None
        # A label that is looked up shows a 0: one whose figure is not known has no series.
        self._figures: dict[str, Gauge] = {}

    def saw(self, peer: str, way_s: float | None, sent_bytes: int, received_bytes: int) -> None:
        with self._mutex:
            if peer != self._peer:
                # The name comes from another node: one at a time, so that it cannot make series without end.
                if self._peer is not None:
                    self._vectors.peer.remove(*self._labels, self._peer)
                self._peer = peer
                self._vectors.peer.labels(*self._labels, peer).set(1)
            if way_s is not None:
                self._state.observe(sent_bytes, received_bytes, way_s, time.monotonic_ns())
                facts = self._state.facts
                self._show("rtt", facts.rtt_s)
                self._show("up", facts.up_bps and facts.up_bps / 8)
                self._show("down", facts.down_bps and facts.down_bps / 8)
        self._forwards.inc()
        self._up.set(1)

    def _show(self, name: str, value: float | None) -> None:
        if value is None:
            return
        if name not in self._figures:
            rtt, goodput = self._vectors.rtt, self._vectors.goodput
            self._figures[name] = rtt.labels(*self._labels) if name == "rtt" else goodput.labels(*self._labels, name)
        self._figures[name].set(value)
