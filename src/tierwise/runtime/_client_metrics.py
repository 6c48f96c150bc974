"""What an application tells that chooses among paths: which made its answers and why, and how its links are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tierwise.runtime._adaptive import PipelineFacts

__all__ = ["ClientMetrics"]


@final
class ClientMetrics:
    """The metrics of one adaptive pipeline, read from its facts when they are asked for: a request costs nothing more.

    Show them with `metrics_server` or `metrics_routes`, or add ``registry`` to what the application shows already::

        metrics = ClientMetrics(pipeline.facts)
        with metrics_server("127.0.0.1:9100", metrics.exposition):
            ...

    Args:
        facts: `AdaptivePipeline.facts`.

    Attributes:
        registry: Of its own, nothing shared by the process.
    """

    def __init__(self, facts: Callable[[], PipelineFacts]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Facts(facts))
        ProcessCollector(registry=self.registry)

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
        answers = CounterMetricFamily(
            "tierwise_client_answers", "Answers by what made them and why.", labels=("path", "why")
        )
        for labels, count in facts.answered.items():
            answers.add_metric(labels, count)
        yield answers
        for name, text, value in (
            ("unanswered", "Requests that no path could answer.", facts.unanswered),
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
