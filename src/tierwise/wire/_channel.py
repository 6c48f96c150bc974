"""A connection of a client to a node: its options, its credentials, and what is said when a call on it fails."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tierwise._errors import RemoteError, SpecError
from tierwise.wire._credentials import Credentials
from tierwise.wire._tls import channel_credentials

if TYPE_CHECKING:
    import grpc

__all__ = ["CHANNEL_OPTIONS", "call_metadata", "open_channel", "remote_error"]

_WINDOW_BYTES = 8 << 20
_ADDRESS: Final = re.compile(r"unix:[^\0]+|(\[[0-9A-Fa-f:.%a-z]+\]|[^\s\0:/]+):\d{1,5}")

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # Sizes are limited by the node itself, which can say what the limit is.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A fixed window instead of one that grows by probing: over a link with a long round trip the first large message
    # would otherwise wait for it, and probes would travel between measurements.
    ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
    ("grpc.http2.bdp_probe", 0),
)
"""What both ends of a connection set."""

_CLIENT_OPTIONS: Final = (
    *CHANNEL_OPTIONS,
    # Nodes are addressed directly, whatever proxy the environment names.
    ("grpc.enable_http_proxy", 0),
    # A request is sent once: a repeated one would be measured as one slow request.
    ("grpc.enable_retries", 0),
    # Each client has its own connection, and finds a node that came back within a second.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one attempt to connect may take, whatever its name says: a long round trip or a busy machine needs more
    # than the backoff. An attempt that is refused fails at once all the same.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Over a link that fell silent the system would send again ever more rarely, and notice that it is back as late.
    # What is not acknowledged for this long ends the connection (gRPC makes it TCP_USER_TIMEOUT), and a new one finds
    # the link as soon as it is there. The interval only switches that on: every server allows a ping in five minutes.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 5000),
)


def open_channel(address: str, credentials: Credentials | None) -> grpc.Channel:
    """A connection to ``address``; nothing is sent before the first call.

    Raises:
        SpecError: The address is of another form, or the credentials cannot be used.
    """
    import grpc

    # gRPC knows further forms, which reach resolvers and sockets that nobody meant.
    if not _ADDRESS.fullmatch(address):
        raise SpecError("an address must be HOST:PORT or unix:PATH", got=repr(address[:200]))
    if credentials is None or credentials.tls is None or address.startswith("unix:"):
        return grpc.insecure_channel(address, options=_CLIENT_OPTIONS)
    tls = credentials.tls
    named = () if tls.name is None else (("grpc.ssl_target_name_override", tls.name),)
    return grpc.secure_channel(address, channel_credentials(tls), options=(*_CLIENT_OPTIONS, *named))


def call_metadata(address: str, credentials: Credentials | None) -> tuple[tuple[str, str], ...]:
    """What is sent beside every call."""
    token = None if credentials is None else credentials.token(address)
    return () if token is None else (("authorization", f"Bearer {token}"),)


def remote_error(error: Any, method: str, model: str | None, address: str) -> RemoteError:
    """What is raised for gRPC's ``error`` of a call of ``method`` about ``model``."""
    import grpc

    code = error.code()
    details = (error.details() or "no details").rstrip(".")
    fix = {
        grpc.StatusCode.UNAVAILABLE: "Check that a node runs at this address (`tierwise node --listen ...`)",
        grpc.StatusCode.DEADLINE_EXCEEDED: "Give it more time or look at the node's load",
        grpc.StatusCode.UNIMPLEMENTED: "The server must speak this part of the Open Inference Protocol v2",
        grpc.StatusCode.UNAUTHENTICATED: "Give credentials for this address (--credentials FILE)",
        grpc.StatusCode.PERMISSION_DENIED: "Ask with a token or certificate that may do this",
    }.get(code)
    about = f" for model {model!r}" if model is not None else ""
    return RemoteError(f"the node must answer {method}{about}", got=f"{code.name}: {details}", where=address, fix=fix)
