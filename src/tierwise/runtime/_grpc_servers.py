"""gRPC on a node's addresses: secured, and bounded in what it takes before anything of Tierwise's sees it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final, final

import grpc

from tierwise._errors import UnavailableError
from tierwise.runtime._desk import Desk
from tierwise.runtime._grpc_front import GrpcFront
from tierwise.runtime._security import NodeLimits
from tierwise.runtime._spec import NodeSpec
from tierwise.wire import CHANNEL_OPTIONS, is_local, server_tls

__all__ = ["GrpcServers"]

# Beside the tensors: so much more may come that the node itself says what its limit is.
_MARGIN_BYTES: Final = 1 << 20
# gRPC counts in 32 bits.
_LARGEST_BYTES: Final = (1 << 31) - 1
# Connections count against the limit from their first byte, or before it: the silent ones must soon go.
_HANDSHAKE_MS: Final = 5_000
_IDENTITY: Final = 1


@final
class GrpcServers:
    """Serves from when it is made until `stop`.

    Addresses where nobody may load models take no messages as large as models are: gRPC limits messages by server, not
    by method, so there are up to two servers, which share their threads.

    Args:
        spec: How the node serves.
        desk: Who answers.
        pool: Threads that answer.

    Attributes:
        addresses: Where it listens, with the real ports, in the order of ``spec.listen``.

    Raises:
        UnavailableError: An address cannot be listened on.
        SpecError: The files of TLS cannot be used.
    """

    def __init__(self, spec: NodeSpec, desk: Desk, pool: ThreadPoolExecutor) -> None:
        tls = spec.security.tls
        certificates = tls is not None and tls.client_authority is not None
        self._credentials = None if tls is None else server_tls(tls)
        known = spec.security.tokens is not None or bool(spec.security.admin_certificates)
        front = GrpcFront(desk, certificates)
        small = spec.max_message_bytes + _MARGIN_BYTES
        large = max(small, spec.limits.push_bytes)
        self._servers: dict[int, grpc.Server] = {}
        self.addresses = []
        for address in spec.listen:
            most_bytes = min(large if known or is_local(address) else small, _LARGEST_BYTES)
            if most_bytes not in self._servers:
                server = grpc.server(pool, options=_options(most_bytes, spec.limits))
                server.add_generic_rpc_handlers((front.routes(), front.own_routes(), front.training_routes()))
                self._servers[most_bytes] = server
            self.addresses.append(self._listen(self._servers[most_bytes], address))
        for server in self._servers.values():
            server.start()

    def stop(self, grace_s: float) -> list[threading.Event]:
        """Take no more requests; those under way are cut off after ``grace_s``. What is set when all of it ended."""
        return [server.stop(grace_s) for server in self._servers.values()]

    def _listen(self, server: grpc.Server, address: str) -> str:
        try:
            if self._credentials is None or address.startswith("unix:"):
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise UnavailableError(
                f"the node must be able to listen there ({error})",
                where=address,
                fix="Give a free HOST:PORT of this machine (port 0 picks one) or unix:PATH in a folder that exists",
            ) from error
        host, _, asked = address.rpartition(":")
        return f"{host}:{port}" if asked == "0" and not address.startswith("unix:") else address


def _options(most_bytes: int, limits: NodeLimits) -> tuple[tuple[str, int], ...]:
    theirs = dict(CHANNEL_OPTIONS)
    theirs["grpc.max_receive_message_length"] = most_bytes
    return (
        *theirs.items(),
        # Two nodes on one port would share its requests; the second shall fail instead.
        ("grpc.so_reuseport", 0),
        # A small message may unpack to a great one: none is unpacked. (Codecs make contents small, and bound them.)
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    )
