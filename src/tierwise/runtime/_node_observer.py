"""What a node is seen to do: counted, written down and traced."""

from __future__ import annotations

import random
import traceback
from collections.abc import Mapping
from typing import Final, final

from tierwise.runtime._call import Call
from tierwise.runtime._log import EventLog
from tierwise.runtime._metrics import NodeMetrics
from tierwise.runtime._observer import Answered, Forwarded, Refused
from tierwise.runtime._refusal import Code
from tierwise.runtime._tracing import RequestTrace, Tracing
from tierwise.wire import TRACEPARENT, TraceContext

__all__ = ["NodeObserver"]

# Their texts speak of the node and its neighbours; those of others may hold what a client sent.
_SAID: Final = frozenset({Code.UNSUITED, Code.EXHAUSTED, Code.TOO_LATE, Code.UNAVAILABLE})
_TRACE_HEADERS: Final = (TRACEPARENT, "tracestate")
_FRAMES: Final = 12


@final
class NodeObserver:
    """The `Observer` of a node that serves.

    Args:
        metrics: Counts.
        log: Writes down.
        tracing: Makes spans; None: a trace's context is handed on as it came.
        request_log_frac: Share of the answered requests that are written down one by one.
    """

    def __init__(
        self, metrics: NodeMetrics, log: EventLog, tracing: Tracing | None = None, request_log_frac: float = 0.0
    ) -> None:
        self._metrics, self._log, self._tracing, self._frac = metrics, log, tracing, request_log_frac
        self._traces: dict[int, RequestTrace] = {}
        self._down: set[str] = set()

    def begun(self, call: Call) -> None:
        """See `Observer.begun`."""
        self._metrics.begun()
        if self._tracing is not None:
            known: dict[str, str | int | float] = {"tierwise.tier": self._metrics.tier, "tierwise.front": call.front}
            parent = TraceContext.parse(call.headers.get(TRACEPARENT))
            self._traces[id(call)] = self._tracing.serving("tierwise.infer", parent, call.received_ns, known)

    def onward(self, call: Call) -> Mapping[str, str]:
        """See `Observer.onward`."""
        if not self._traces and not call.headers:
            return {}
        told = {name: call.headers[name] for name in _TRACE_HEADERS if name in call.headers}
        trace = self._traces.get(id(call))
        if trace is not None:
            told[TRACEPARENT] = trace.forward().header()
        return told

    def forwarded(self, call: Call, forwarded: Forwarded) -> None:
        """See `Observer.forwarded`."""
        link = forwarded.link
        way_s = None if forwarded.way_ns is None else forwarded.way_ns / 1e9
        self._metrics.forwarded(link, forwarded.peer, way_s, forwarded.bytes_up, forwarded.bytes_down)
        trace = self._traces.get(id(call))
        if trace is not None:
            trace.forwarded(link)
        if link in self._down:
            self._down.discard(link)
            self._log.info("link answers again", link=link, peer=forwarded.peer)

    def forward_failed(self, call: Call, link: str, status: str) -> None:
        """See `Observer.forward_failed`."""
        self._metrics.forward_failed(link, status)
        trace = self._traces.get(id(call))
        if trace is not None:
            trace.forwarded(link, status)
        if link not in self._down and status in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            self._down.add(link)
            self._log.warning("link does not answer", link=link, status=status)

    def answered(self, call: Call, answered: Answered) -> None:
        """See `Observer.answered`."""
        request_s = (answered.answered_ns - answered.received_ns) / 1e9
        self._metrics.ended()
        self._metrics.answered(
            answered.model,
            answered.version,
            request_s,
            answered.stages,
            answered.batch_size,
            answered.bytes_in,
            answered.bytes_out,
        )
        trace = self._traces.pop(id(call), None) if self._traces else None
        if trace is not None:
            if trace.recording:
                trace.note("tierwise.model", answered.model)
                trace.note("tierwise.version", answered.version)
                trace.note("tierwise.batch_size", answered.batch_size)
                trace.stages(answered.marks)
            trace.end()
        if self._frac > 0 and self._drawn(call, trace):
            self._log.info(
                "request",
                model=answered.model,
                version=answered.version,
                request=call.id or None,
                trace=_trace_id(call, trace),
                seconds=request_s,
                queue_s=answered.queue_ns / 1e9,
                batch=answered.batch_size,
                received_bytes=answered.bytes_in,
                sent_bytes=answered.bytes_out,
                path=">".join(answered.path),
                front=call.front,
            )

    def refused(self, call: Call | None, refused: Refused) -> None:
        """See `Observer.refused`."""
        code = refused.code
        self._metrics.refused(code.value)
        trace = None
        if call is not None:
            self._metrics.ended()
            trace = self._traces.pop(id(call), None) if self._traces else None
            if trace is not None:
                trace.end(code.value)
        write = self._log.warning if code in (Code.UNAVAILABLE, Code.INTERNAL) else self._log.info
        write(
            "refused",
            method=refused.method,
            model=refused.model or None,
            code=code.value,
            request=call.id or None if call is not None else None,
            trace=_trace_id(call, trace),
            seconds=refused.took_ns / 1e9,
            reason=refused.text if code in _SAID else None,
        )

    def loaded(self, model: str, version: str, took_s: float) -> None:
        """See `Observer.loaded`."""
        self._metrics.loaded(model, version)
        self._log.info("model loaded", model=model, version=version, seconds=took_s)

    def unloaded(self, model: str, version: str) -> None:
        """See `Observer.unloaded`."""
        self._metrics.unloaded(model, version)
        self._log.info("model unloaded", model=model, version=version)

    def failed(self, error: Exception) -> None:
        """See `Observer.failed`: where it happened, not its message, which may hold what a client sent."""
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        places = (f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        self._log.error("unexpected error", error=type(error).__name__, where=" < ".join(places))

    def exposition(self) -> bytes:
        """See `Observer.exposition`."""
        return self._metrics.exposition()

    def _drawn(self, call: Call, trace: RequestTrace | None) -> bool:
        """Whether to write a request down: by its trace, so that all its nodes do or none does; else by chance."""
        trace_id = _trace_id(call, trace)
        # The last digits of a trace id are random (W3C Trace Context, 2.2.2).
        draw = random.random() if trace_id is None else int(trace_id[-8:], 16) / 0x1_0000_0000
        return draw < self._frac


def _trace_id(call: Call | None, trace: RequestTrace | None) -> str | None:
    if trace is not None:
        return trace.context.trace_id
    context = TraceContext.parse(call.headers.get(TRACEPARENT)) if call is not None and call.headers else None
    return None if context is None else context.trace_id
