"""Spans of requests, with OpenTelemetry where it is installed: one trace from the application to the last tier."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

from tierwise import __version__
from tierwise._errors import UnavailableError
from tierwise.runtime._observability import ObservabilitySpec
from tierwise.wire import TraceContext

__all__ = ["RequestTrace", "Tracing", "open_tracing"]

Attributes = Mapping[str, str | int | float]

_INSTALL: Final = 'Install it with: pip install "tierwise[otel]"'


@final
class Tracing:
    """Makes the spans of one side (a node, or an application's pipeline).

    Args:
        provider: An OpenTelemetry ``TracerProvider``; the application's own, or one of `open_tracing`.

    Raises:
        UnavailableError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: Any) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.context import Context
        except ImportError as error:
            raise UnavailableError("OpenTelemetry must be installed to make spans", fix=_INSTALL) from error
        self._trace, self._empty = trace, Context()
        self._provider = provider
        self._tracer = provider.get_tracer("tierwise", __version__)

    def asking(self, name: str, attributes: Attributes) -> RequestTrace:
        """The application's side of a request: a span within the one that is current, else the first of a trace.

        Args:
            name: The span's.
            attributes: What is known of it.
        """
        span = self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT, attributes=attributes)
        return RequestTrace(self._trace, self._tracer, span)

    def serving(self, name: str, parent: TraceContext | None, started_ns: int, attributes: Attributes) -> RequestTrace:
        """A node's side of a request: a span within ``parent``, else (where the sampler draws it) the first of a trace.

        Args:
            name: The span's.
            parent: Where the request belongs; None: nowhere.
            started_ns: When its bytes had arrived, on the host's monotonic clock.
            attributes: What is known of it.
        """
        context = self._empty
        if parent is not None:
            asked = self._trace.SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=self._trace.TraceFlags(int(parent.sampled)),
            )
            context = self._trace.set_span_in_context(self._trace.NonRecordingSpan(asked), context)
        span = self._tracer.start_span(
            name,
            context,
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=started_ns + _epoch_ns(),
        )
        return RequestTrace(self._trace, self._tracer, span)

    def close(self) -> None:
        """Send what has not been sent yet; for a provider that `open_tracing` made."""
        self._provider.shutdown()


@final
class RequestTrace:
    """The span of one request on one side, and those within it; for one thread at a time. Made by `Tracing` only.

    Attributes:
        context: Where what this side asks others for belongs.
        recording: Whether anything is kept of it.
    """

    def __init__(self, trace: Any, tracer: Any, span: Any) -> None:
        self._trace, self._tracer, self._span = trace, tracer, span
        self._within = trace.set_span_in_context(span)
        self._forward: Any = None
        self.recording = bool(span.is_recording())
        self.context = _context(span)

    def stages(self, marks: Iterable[tuple[str, int, int]]) -> None:
        """Spans for stages that have ended: (stage, began, ended) on the host's monotonic clock."""
        if not self.recording:
            return
        epoch_ns = _epoch_ns()
        for stage, began_ns, ended_ns in marks:
            self._tracer.start_span(stage, self._within, start_time=began_ns + epoch_ns).end(ended_ns + epoch_ns)

    def note(self, name: str, value: str | int | float) -> None:
        """Something that is known of the request only later."""
        self._span.set_attribute(name, value)

    def forward(self) -> TraceContext:
        """Another node is asked from now on; the context is what to hand it."""
        self._forward = self._tracer.start_span("forward", self._within, kind=self._trace.SpanKind.CLIENT)
        return _context(self._forward)

    def forwarded(self, link: str, failure: str | None = None) -> None:
        """It has answered, or not (``failure`` says how)."""
        if self._forward is not None:
            self._forward.set_attribute("tierwise.link", link)
            if failure is not None:
                self._forward.set_status(self._trace.StatusCode.ERROR, failure)
            self._forward.end()
            self._forward = None

    def end(self, failure: str | None = None) -> None:
        """The request is over.

        Args:
            failure: The kind of what went wrong and no more: a message may hold what a client sent.
        """
        if failure is not None:
            self._span.set_status(self._trace.StatusCode.ERROR, failure)
        self._span.end()


def _epoch_ns() -> int:
    """What the monotonic clock must be moved by to tell time since 1970."""
    return time.time_ns() - time.monotonic_ns()


def _context(span: Any) -> TraceContext:
    told = span.get_span_context()
    return TraceContext(f"{told.trace_id:032x}", f"{told.span_id:016x}", bool(told.trace_flags.sampled))


def open_tracing(spec: ObservabilitySpec, tier: str) -> Tracing | None:
    """What makes a node's spans and sends them to ``spec.trace_endpoint``; None where none is named.

    Raises:
        UnavailableError: An endpoint is named, but the extra ``otel`` is not installed.
    """
    if spec.trace_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # type: ignore[import-not-found, unused-ignore]
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise UnavailableError(
            "OpenTelemetry must be installed for trace_endpoint", got=f"no {error.name}", fix=_INSTALL
        ) from error
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(spec.trace_frac)),
        resource=Resource.create(
            {"service.name": "tierwise-node", "service.version": __version__, "tierwise.tier": tier}
        ),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=spec.trace_endpoint, insecure=spec.trace_endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)
