"""What watching costs a node: time a request spends on being counted, written down and traced.

    python benchmarks/observability.py [--requests 20000] [--save]

The observer is told what a node's desk tells it of one request that went on to another node: begun, onward, forwarded,
answered, with seven stages. Rounds of the observers take turns; the figure is the median over the rounds. The span
exporter drops what it gets: what sending costs is its own thread's. ``--save`` writes figures and environment to
docs/results/.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tierwise._clock import SystemClock
from tierwise.measure import read_environment
from tierwise.runtime import NodeMetrics, ObservabilitySpec, Tracing
from tierwise.runtime._call import Call
from tierwise.runtime._log import open_log
from tierwise.runtime._node_observer import NodeObserver
from tierwise.runtime._observer import Answered, Forwarded, Observer, SilentObserver
from tierwise.wire import TraceContext, infer_request

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
ROUNDS = 9
STAGES = ("decode", "queue", "preprocess", "head", "encode", "uplink", "downlink")


class Nowhere(SpanExporter):
    """Takes spans and forgets them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See OpenTelemetry."""
        return SpanExportResult.SUCCESS


def observers() -> dict[str, tuple[Observer, bool]]:
    """By name, and whether its requests come within a sampled trace."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    log = open_log(ObservabilitySpec(), "mobile", SystemClock(), io.StringIO())
    every = {
        "silent": (SilentObserver(), False),
        "metrics": (NodeObserver(NodeMetrics("mobile"), log), False),
        "metrics, trace handed on": (NodeObserver(NodeMetrics("mobile"), log), True),
        "metrics, spans": (NodeObserver(NodeMetrics("mobile"), log, Tracing(provider)), True),
    }
    for observer, _ in every.values():
        observer.loaded("digits", "1", 0.1)
    return every


def seconds_a_request(observer: Observer, traced: bool, requests: int) -> float:
    headers = {"traceparent": TraceContext.new().header()} if traced else {}
    now_ns = time.monotonic_ns()
    call = Call("digits", infer_request("digits", {}), lambda _: b"", 1000, now_ns, headers=headers)
    forwarded = Forwarded("10.0.0.7:8001", "edge", 5_000_000, 4000, 400)
    answered = Answered(
        model="digits",
        version="1",
        received_ns=now_ns,
        answered_ns=now_ns + 8_000_000,
        stages=tuple(("mobile", stage, 1_000_000) for stage in STAGES),
        queue_ns=1000,
        batch_size=1,
        bytes_in=1000,
        bytes_out=400,
        path=("mobile", "edge"),
        exit_frac=None,
        marks=tuple((stage, now_ns, now_ns + 1_000_000) for stage in STAGES[:5]),
    )
    started_s = time.perf_counter()
    for _ in range(requests):
        observer.begun(call)
        observer.onward(call)
        observer.forwarded(call, forwarded)
        observer.answered(call, answered)
    return (time.perf_counter() - started_s) / requests


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="in each round")
    parser.add_argument("--save", action="store_true", help="write the result to docs/results/")
    arguments = parser.parse_args()
    every = observers()
    times: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(ROUNDS):
        for name, (observer, traced) in every.items():
            times[name].append(seconds_a_request(observer, traced, arguments.requests))
    figures: dict[str, Any] = {name: statistics.median(values) for name, values in times.items()}
    for name, value_s in figures.items():
        print(f"{name:<28} {1e6 * value_s:7.1f} µs a request")
    metrics = every["metrics"][0]
    started_s = time.perf_counter()
    for _ in range(50):
        text = metrics.exposition()
    exposition = {"seconds": (time.perf_counter() - started_s) / 50, "bytes": len(text)}
    print(f"exposition, one model        {1e3 * exposition['seconds']:7.2f} ms, {exposition['bytes']:,} bytes")
    if arguments.save:
        result = {
            "seconds_a_request": figures,
            "exposition": exposition,
            "requests": arguments.requests,
            "rounds": ROUNDS,
            "environment": msgspec.to_builtins(read_environment()),
        }
        (RESULTS / "observability.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
