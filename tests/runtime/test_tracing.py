"""One trace over the application and three nodes, as OpenTelemetry's own exporter sees it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tierwise._clock import SystemClock
from tierwise._errors import RemoteError, UnavailableError
from tierwise.runtime import NodeMetrics, NodeSpec, ObservabilitySpec, Pipeline, Placed, Share, Tracing, deploy
from tierwise.runtime._log import open_log
from tierwise.runtime._node_observer import NodeObserver
from tierwise.runtime._serve import _Forwards, _start
from tierwise.runtime._tracing import open_tracing
from tierwise.wire import InferenceClient, TraceContext, infer_request


class Seen:
    """Spans and log lines of everything that was started."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.log = io.StringIO()

    def spans(self) -> tuple[Any, ...]:
        return self.exporter.get_finished_spans()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@contextmanager
def nodes(folder, seen: Seen, tracing: dict[str, Tracing | None]) -> Iterator[dict[str, str]]:
    """Nodes in this process, so that their spans can be looked at; yields their addresses."""
    with ExitStack() as stack:
        addresses = {}
        for tier, spans in tracing.items():
            log = open_log(ObservabilitySpec(log_format="json"), tier, SystemClock(), seen.log)
            observer = NodeObserver(NodeMetrics(tier), log, spans, request_log_frac=1.0)
            place = folder / tier
            place.mkdir()
            spec = NodeSpec(listen=("127.0.0.1:0",), tier=tier, threads=1)
            forwards = stack.enter_context(_Forwards(spec.security))
            server, desk, (addresses[tier],) = _start(spec, place, forwards, observer, log, (), stack)
            stack.callback(desk.close)
            stack.callback(lambda server=server: [ended.wait() for ended in server.stop(0)])
        yield addresses


def _deploy(chain, addresses: dict[str, str]) -> None:
    tiers = list(addresses)
    placement = [
        Placed(
            control=addresses[tier],
            share=Share(segments=(i, i + 1), forward=addresses[tiers[i + 1]] if i < 2 else None),
        )
        for i, tier in enumerate(tiers)
    ]
    deploy(chain, "m", placement)


def test_one_trace_goes_over_all_tiers(tmp_path, chain, inputs) -> None:
    seen = Seen()
    tracing = Tracing(seen.provider)
    with nodes(tmp_path, seen, dict.fromkeys(("mobile", "edge", "cloud"), tracing)) as addresses:
        _deploy(chain, addresses)
        with (
            Pipeline(addresses["mobile"], "m", chain.manifest.input, tracing=tracing) as pipeline,
            seen.provider.get_tracer("application").start_as_current_span("a picture was taken") as application,
        ):
            pipeline.infer(inputs)
    spans = seen.spans()
    assert {span.context.trace_id for span in spans} == {application.get_span_context().trace_id}
    by_id = {span.context.span_id: span for span in spans}

    def above(span: Any) -> list[str]:
        names = []
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.append(span.attributes.get("tierwise.tier", span.name))
        return names

    (tail,) = [span for span in spans if span.name == "tail"]
    assert above(tail) == [
        "cloud", "forward", "edge", "forward", "mobile", "tierwise.ask", "a picture was taken",
    ]  # fmt: skip
    assert {"decode", "queue", "head", "middle", "tail", "encode"} <= {span.name for span in spans}
    for span in spans:
        if span.parent is not None:
            parent = by_id[span.parent.span_id]
            # Stamps of the two clocks are taken a moment apart.
            assert parent.start_time - 2_000_000 <= span.start_time <= span.end_time <= parent.end_time + 2_000_000
    requests = [event for event in seen.events() if event["event"] == "request"]
    assert [event["tier"] for event in requests] == ["cloud", "edge", "mobile"]
    assert {event["trace"] for event in requests} == {f"{application.get_span_context().trace_id:032x}"}


def test_a_node_without_spans_hands_the_trace_on(tmp_path, chain, inputs) -> None:
    seen = Seen()
    tracing = Tracing(seen.provider)
    with nodes(tmp_path, seen, {"mobile": tracing, "edge": None, "cloud": tracing}) as addresses:
        _deploy(chain, addresses)
        with Pipeline(addresses["mobile"], "m", chain.manifest.input, tracing=tracing) as pipeline:
            pipeline.infer(inputs)
    spans = seen.spans()
    assert len({span.context.trace_id for span in spans}) == 1
    assert {span.attributes.get("tierwise.tier") for span in spans} == {None, "mobile", "cloud"}


def test_what_is_not_sampled_is_not_kept_and_stays_so_above(tmp_path, chain, inputs) -> None:
    seen = Seen()
    tracing = Tracing(seen.provider)
    with nodes(tmp_path, seen, dict.fromkeys(("mobile", "edge", "cloud"), tracing)) as addresses:
        _deploy(chain, addresses)
        with InferenceClient(addresses["mobile"]) as client:
            header = {"traceparent": TraceContext.new(sampled=False).header()}
            client.exchange(infer_request("m", inputs), headers=header)
    assert seen.spans() == ()


def test_an_answer_that_failed_is_an_error_without_its_text(tmp_path, chain, inputs) -> None:
    seen = Seen()
    tracing = Tracing(seen.provider)
    with nodes(tmp_path, seen, dict.fromkeys(("mobile", "edge", "cloud"), tracing)) as addresses:
        _deploy(chain, addresses)
        with (
            Pipeline(addresses["mobile"], "m", chain.manifest.input, tracing=tracing) as pipeline,
            pytest.raises(RemoteError),
        ):
            pipeline.infer({"secret-name": inputs["x"]})
    assert {span.status.status_code for span in seen.spans()} >= {trace.StatusCode.ERROR}
    assert all("secret-name" not in str(span.to_json()) for span in seen.spans())
    (refused,) = [event for event in seen.events() if event["event"] == "refused"]
    assert refused["code"] == "invalid"
    assert "secret-name" not in seen.log.getvalue()


def test_no_endpoint_no_spans_and_an_endpoint_needs_the_extra(monkeypatch) -> None:
    assert open_tracing(ObservabilitySpec(), "edge") is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(UnavailableError, match=r"tierwise\[otel\]"):
        open_tracing(ObservabilitySpec(trace_endpoint="http://127.0.0.1:4317"), "edge")
