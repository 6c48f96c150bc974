"""How much a node tells about itself, and where."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tierwise._config import Spec

__all__ = ["ObservabilitySpec"]


class ObservabilitySpec(Spec, frozen=True, kw_only=True):
    """What a node writes to its log and sends as traces.

    Attributes:
        log_level: The least serious events that are written.
        log_format: ``json`` (one object a line), ``text`` (for eyes), or ``auto``: text where stderr is a terminal.
        request_log_frac: Share of the requests that get a line of their own; 0 writes none. A request that is part
            of a sampled trace is drawn by its trace id, so that all its nodes write it or none does.
        trace_endpoint: Where spans go, ``http(s)://HOST:PORT`` of an OTLP/gRPC receiver; None: none are made (the
            context of a trace is handed on all the same). Needs the extra ``otel``.
        trace_frac: Share of the requests without a trace of their own that start one here; those that come with one are
            recorded as the asking side says.
        metrics_listen: ``host:port`` where ``/metrics`` is answered over HTTP beside the node's own addresses, to
            whoever reaches it; None: nowhere of its own.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    request_log_frac: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    trace_endpoint: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+$")] | None = None
    trace_frac: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    metrics_listen: Annotated[str, msgspec.Meta(pattern=r"^.+:\d{1,5}$")] | None = None
