"""A node with the real exporter: what an OTLP receiver gets over the network."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from tierwise.runtime import PROBE
from tierwise.wire import InferenceClient

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="the exporter is not installed (tierwise[otel])")
service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[Any]]]:
    """The address of a receiver, and the requests that it has decoded."""
    received: list[Any] = []

    def export(request: Any, context: grpc.ServicerContext) -> Any:
        received.append(request)
        return service.ExportTraceServiceResponse()

    method = grpc.unary_unary_rpc_method_handler(
        export,
        service.ExportTraceServiceRequest.FromString,
        service.ExportTraceServiceResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": method}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", received
    server.stop(0).wait()


def test_a_receiver_gets_a_nodes_spans(start_node: Callable[..., Any], receiver: tuple[str, list[Any]]) -> None:
    endpoint, received = receiver
    node = start_node("edge", "--traces", endpoint, "--trace-requests", "1")
    with InferenceClient(node.unix) as client:
        client.infer(PROBE, {"work": np.array([1])})
    # What is not yet sent goes out before the node ends.
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(30) == 0
    found = [resource for request in received for resource in request.resource_spans]
    attributes = {a.key: a.value.string_value for resource in found for a in resource.resource.attributes}
    assert attributes["service.name"] == "tierwise-node"
    assert attributes["tierwise.tier"] == "edge"
    spans = [span for resource in found for scope in resource.scope_spans for span in scope.spans]
    assert {"decode", "queue", "infer", "encode"} <= {span.name for span in spans}
    assert len({span.trace_id for span in spans}) == 1
