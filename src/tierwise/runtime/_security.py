"""What is asked of a node about strangers: who is let in, for what, and how much each of them may take."""

from __future__ import annotations

from typing import Annotated, Literal, final

import msgspec

from tierwise._config import Spec
from tierwise.artifact import InputLimits
from tierwise.wire import ServerTls, TensorLimits

__all__ = ["NodeLimits", "SecuritySpec"]

Positive = Annotated[int, msgspec.Meta(gt=0)]


@final
class SecuritySpec(Spec, frozen=True, kw_only=True):
    """Who may do what.

    What comes over a unix socket or from a loopback address is local. Without any of this, whoever is local may do
    everything, and others may ask models but not change what is served.

    Attributes:
        tls: How TCP addresses of gRPC and REST are secured; None: they are not. Unix sockets never are: who may open
            the socket's file is decided by its mode.
        tokens: File of tokens (``tierwise token new``). Given, whoever is not local must show one, or a client
            certificate.
        admin_certificates: Names (subject alternative or common) of client certificates that may change what is served.
        local: ``trusted``: local peers need nothing. ``token``: they are as others (where other people use this
            machine, or something on it passes requests of others on).
        require_signature: Whether artifacts must be signed by one of ``trusted_keys``, when they are loaded and when
            they are served again after a start.
        trusted_keys: Files of public keys, and folders whose ``.pub`` files are. Read at every load: taking a file away
            takes the trust away.
        forward_to: Patterns of addresses that a share may forward to.
        forward_credentials: Keyring file for those addresses (`tierwise.wire.Keyring`); None: as the environment says.
    """

    tls: ServerTls | None = None
    tokens: str | None = None
    admin_certificates: tuple[str, ...] = ()
    local: Literal["trusted", "token"] = "trusted"
    require_signature: bool = False
    trusted_keys: tuple[str, ...] = ()
    forward_to: tuple[str, ...] = ("*",)
    forward_credentials: str | None = None

    def __post_init__(self) -> None:
        """Check what would lock everybody out, or let somebody in by mistake."""
        if self.require_signature and not self.trusted_keys:
            raise ValueError("require_signature needs trusted_keys, or nothing could be loaded")
        if self.admin_certificates and (self.tls is None or self.tls.client_authority is None):
            raise ValueError("admin_certificates needs tls with client_authority, or nobody could show one")
        if self.local == "token" and self.tokens is None:
            raise ValueError('local = "token" needs tokens, or nobody could load a model')


@final
class NodeLimits(Spec, frozen=True, kw_only=True):
    """How much strangers may take.

    Attributes:
        push_bytes: Largest message that loads a model; gRPC itself takes none beyond 2 GiB.
        models: Models that may be served at once, versions counted.
        repository_bytes: Bytes of all artifacts in the repository; None: what the disk holds.
        connections: Connections at once, for gRPC and REST each.
        streams: Requests at once over one gRPC connection. Beyond it a client of HTTP/2 keeps what it has to ask until
            others are answered (RFC 9113, 5.1.2); one that does not is refused stream by stream.
        concurrent: Requests of one principal under way at once; None: as all (``max_waiting``). A principal is a token,
            a client certificate, or the host of those who show neither.
        rate_per_s: Requests of one principal per second, on average; None: not limited.
        rate_burst: Requests it may ask at once after a rest.
        memory_bytes: Memory the process may allocate (RLIMIT_DATA: threads' stacks count); None: what the machine has.
            Beyond it, requests and loads fail instead of the machine.
        tensors: What one message may hold.
        inputs: What a request's pictures and texts may become.
    """

    push_bytes: Positive = 2 << 30
    models: Positive = 256
    repository_bytes: Positive | None = None
    connections: Positive = 4096
    streams: Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)] = 1024
    concurrent: Positive | None = None
    rate_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    rate_burst: Positive = 20
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 << 20)] | None = None
    tensors: TensorLimits = TensorLimits()
    inputs: InputLimits = InputLimits()
