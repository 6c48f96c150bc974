"""Spans of requests, with OpenTelemetry where it is installed: one trace from the application to the last tier."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final

from tierwise import __version__
from tierwise._errors import UnavailableError
from tierwise.runtime._observability import ObservabilitySpec
from tierwise.wire import TraceContext

__all__ = ["RequestTrace", "Tracing", "open_tracing"]

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

    @contextmanager
    def asking(self, name: str, attributes: dict[str, str | int | float]) -> Iterator[RequestTrace]:
        """The application's side of a request: a span within the one that is current, else the first of a trace."""
        started_ns = time.monotonic_ns()
        span = self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT, attributes=attributes)
        with self._ended(span, started_ns) as request:
            yield request

    @contextmanager
    def serving(
        self, name: str, parent: TraceContext | None, started_ns: int, attributes: dict[str, str | int | float]
    ) -> Iterator[RequestTrace]:
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
        epoch_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            name,
            context,
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=started_ns + epoch_ns,
        )
        with self._ended(span, started_ns) as request:
            yield request

    @contextmanager
    def _ended(self, span: Any, started_ns: int) -> Iterator[RequestTrace]:
        try:
            yield RequestTrace(self._trace, self._tracer, span)
        except BaseException as error:
            # The kind of the error and no more: its message may hold what a client sent.
            span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what has not been sent yet; for a provider that `open_tracing` made."""
        self._provider.shutdown()


@final
class RequestTrace:
    """The span of one request on one side, and those within it. Made by `Tracing` only.

    Attributes:
        context: Where what this side asks others for belongs.
        recording: Whether anything is kept of it.
    """

    def __init__(self, trace: Any, tracer: Any, span: Any) -> None:
        self._trace, self._tracer, self._span = trace, tracer, span
        self._within = trace.set_span_in_context(span)
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self.recording = bool(span.is_recording())
        self.context = _context(span)

    def stage(self, stage: str, started_ns: int, ended_ns: int) -> None:
        """A span for a stage that has ended; times on the host's monotonic clock."""
        if self.recording:
            span = self._tracer.start_span(stage, self._within, start_time=started_ns + self._epoch_ns)
            span.end(ended_ns + self._epoch_ns)

    def note(self, name: str, value: str | int | float) -> None:
        """Something that is known of the request only later."""
        self._span.set_attribute(name, value)

    @contextmanager
    def forward(self, link: str) -> Iterator[TraceContext]:
        """The block asks another node; the context is what to hand it."""
        span = self._tracer.start_span(
            "forward", self._within, kind=self._trace.SpanKind.CLIENT, attributes={"tierwise.link": link}
        )
        try:
            yield _context(span)
        except BaseException as error:
            span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()


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
