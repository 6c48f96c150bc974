"""Where a request belongs in a trace, as W3C Trace Context carries it in gRPC metadata and HTTP headers."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Final, Self, final

__all__ = ["TRACEPARENT", "TraceContext"]

TRACEPARENT: Final = "traceparent"
"""The name of the header and of the metadata key."""

# Version 00 has exactly these fields; later versions may append more, which are ignored.
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@final
@dataclass(frozen=True)
class TraceContext:
    """The trace a request belongs to and the span that asks.

    Attributes:
        trace_id: 32 lower-case hexadecimal digits, not all 0.
        span_id: 16 of them, not all 0.
        sampled: Whether who asks records its part.
    """

    trace_id: str
    span_id: str
    sampled: bool = True

    @classmethod
    def parse(cls, header: str | bytes | None) -> Self | None:
        """The context in a ``traceparent``; None where there is none or it breaks the form (W3C Trace Context, 3.2.2).

        Example:
            >>> TraceContext.parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").span_id
            'b7ad6b7169203331'
            >>> TraceContext.parse("00-0-0-1") is None
            True
        """
        if header is None or len(header) > 512:
            return None
        text = header if isinstance(header, str) else header.decode("latin-1")
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        wrong_version = version == "ff" or (version == "00" and more is not None)
        if wrong_version or not trace_id.strip("0") or not span_id.strip("0"):
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & 1))

    @classmethod
    def new(cls, *, sampled: bool = True) -> Self:
        """A trace of its own, at random."""
        return cls(secrets.token_hex(16), secrets.token_hex(8), sampled)

    def header(self) -> str:
        """The value of ``traceparent``."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"
