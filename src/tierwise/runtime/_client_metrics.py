"""What an application counts that chooses among paths: which made its answers, and why it was not the first choice."""

from __future__ import annotations

from typing import Final, final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

__all__ = ["ClientMetrics"]

# Five a decade from 0.1 ms to 10 s.
_SECONDS: Final = tuple(float(f"{1e-4 * 10 ** (i / 5):.2g}") for i in range(26))


@final
class ClientMetrics:
    """The metrics of one application's pipeline; may be used from several threads.

    Serve them with `metrics_routes`, or add ``registry`` to what the application shows already.

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
            "From the items to the answer, as the application waits for it.",
            ("path",),
            registry=self.registry,
            buckets=_SECONDS,
        )

    def answered(self, path: str, why: str, request_s: float) -> None:
        """A request was answered.

        Args:
            path: The path that made the answer: one of the application's own names.
            why: ``chosen`` where it was the first choice, else a short reason of a fixed set.
            request_s: How long the application waited.
        """
        self._answers.labels(path, why).inc()
        self._seconds.labels(path).observe(request_s)

    def unanswered(self) -> None:
        """A request was answered by no path."""
        self._unanswered.inc()

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format (UTF-8)."""
        return generate_latest(self.registry)
