"""What an application tells that chooses among paths: which made its answers and why, and how its links are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tierwise.runtime._adaptive import PipelineFacts

__all__ = ["ClientMetrics"]

# Five a decade from 0.1 ms to 10 s.
_SECONDS: Final = tuple(float(f"{1e-4 * 10 ** (i / 5):.2g}") for i in range(26))


@final
class ClientMetrics:
    """The metrics of one application; an `AnswerObserver`, which may be told from several threads.

    Show them with `metrics_server` or `metrics_routes`, or add ``registry`` to what the application shows already::

        metrics = ClientMetrics()
        with AdaptivePipeline(paths, observer=metrics) as pipeline:
            metrics.watch(pipeline.facts)
            with metrics_server("127.0.0.1:9100", metrics.exposition):
                ...

    Attributes:
        registry: Of its own, nothing shared by the process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = Counter(
            "tierwise_client_answers", "Answers by what made them and why.", ("path", "why"), registry=self.registry
        )
        self._unanswered = Counter(
            "tierwise_client_unanswered", "Requests that no path could answer.", registry=self.registry
        )
        self._seconds = Histogram(
            "tierwise_client_request_seconds",
            "How long the application waited for an answer.",
            ("path",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        ProcessCollector(registry=self.registry)

    def answered(self, path: str, why: str, request_s: float) -> None:
        """See `AnswerObserver.answered`."""
        self._answers.labels(path, why).inc()
        self._seconds.labels(path).observe(request_s)

    def unanswered(self) -> None:
        """See `AnswerObserver.unanswered`."""
        self._unanswered.inc()

    def watch(self, facts: Callable[[], PipelineFacts]) -> None:
        """Tell also what a pipeline knows of its paths and links whenever the metrics are asked for.

        Args:
            facts: `AdaptivePipeline.facts`.
        """
        self.registry.register(_Facts(facts))

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format (UTF-8)."""
        return generate_latest(self.registry)


@final
class _Facts(Collector):
    def __init__(self, facts: Callable[[], PipelineFacts]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        facts = self._facts()
        for name, text, value in (
            ("switches", "How often the chosen path changed.", facts.switches),
            ("late", "Answers thrown away because the request had been answered.", facts.late),
            ("missed", "Requests answered after their deadline.", facts.missed),
        ):
            yield CounterMetricFamily(f"tierwise_client_{name}", text, value)
        chosen = GaugeMetricFamily(
            "tierwise_client_path_chosen", "Whether requests take this path now.", labels=("path",)
        )
        for path in facts.paths:
            chosen.add_metric((path.name,), path.name == facts.chosen)
        yield chosen
        rtt = GaugeMetricFamily(
            "tierwise_client_link_rtt_seconds", "Round trip of a small message, as learnt.", labels=("link",)
        )
        goodput = GaugeMetricFamily(
            "tierwise_client_link_goodput_bytes_per_second", "Goodput, as learnt.", labels=("link", "direction")
        )
        for name, link in facts.links.items():
            if link.rtt_s is not None:
                rtt.add_metric((name,), link.rtt_s)
            for direction, rate_bps in (("up", link.up_bps), ("down", link.down_bps)):
                if rate_bps is not None:
                    goodput.add_metric((name, direction), rate_bps / 8)
        yield rtt
        yield goodput
