"""A client of the Open Inference Protocol v2 over gRPC, with the model repository extension."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, final

import grpc
import numpy.typing as npt
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue

from tierwise._errors import InputError, RemoteError, SpecError
from tierwise.artifact import TensorSpec
from tierwise.wire._credentials import Credentials, find_credentials
from tierwise.wire._messages import (
    METHODS,
    METRICS_PATH,
    Framed,
    Parameter,
    decode_response,
    infer_request,
    read_parameters,
    write_parameters,
)
from tierwise.wire._push import Push
from tierwise.wire._stubs import open_inference_pb2 as protocol
from tierwise.wire._tls import channel_credentials

__all__ = [
    "CHANNEL_OPTIONS",
    "Exchange",
    "Inference",
    "InferenceClient",
    "ModelMetadata",
    "ModelStatus",
    "ServerMetadata",
    "status_of",
]

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


@final
@dataclass(frozen=True)
class Inference:
    """What a model answered.

    Attributes:
        outputs: Tensors by name; BYTES as object arrays of bytes.
        parameters: Parameters of the answer.
        sent_bytes: Size of the request's message.
        received_bytes: Size of the answer's message.
    """

    outputs: dict[str, npt.NDArray[Any]]
    parameters: dict[str, Parameter]
    sent_bytes: int
    received_bytes: int


@final
@dataclass(frozen=True)
class Exchange:
    """One request's answer as a message, with times on this host's monotonic clock.

    Attributes:
        response: The answer.
        sent_bytes: Size of the request's message.
        received_bytes: Size of the answer's message.
        encode_ns: Time to turn the request into bytes.
        sent_ns: When the request's bytes were handed over for sending.
        answered_ns: When the answer's bytes had arrived.
        decode_ns: Time to turn the answer's bytes into a message.
    """

    response: Framed
    sent_bytes: int
    received_bytes: int
    encode_ns: int
    sent_ns: int
    answered_ns: int
    decode_ns: int


@final
@dataclass(frozen=True)
class ServerMetadata:
    """What a server says about itself."""

    name: str
    version: str
    extensions: tuple[str, ...]


@final
@dataclass(frozen=True)
class ModelMetadata:
    """What a server says about a model.

    Attributes:
        name: The name it is served under.
        versions: Versions served.
        platform: What runs it.
        inputs: What a client sends.
        outputs: What it answers.
        properties: More about it, where the server speaks KServe's form of the message.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: dict[str, str]


@final
@dataclass(frozen=True)
class ModelStatus:
    """One entry of a repository's index: ``state`` is READY, UNAVAILABLE, ...; ``reason`` says why."""

    name: str
    version: str
    state: str
    reason: str


def status_of(error: RemoteError) -> grpc.StatusCode:
    """The status a node or the connection to it answered with; UNKNOWN where the error came from neither."""
    return error.__cause__.code() if isinstance(error.__cause__, grpc.RpcError) else grpc.StatusCode.UNKNOWN


@final
class InferenceClient:
    """A connection to one server; may be used from several threads, and is closed by ``close`` or ``with``.

    Nothing is sent before the first call.

    Args:
        address: ``host:port`` or ``unix:/path``.
        timeout_s: How long a call may take where it is not told otherwise.
        credentials: How it is let in; None: as the environment says (`find_credentials`), if it does.

    Raises:
        SpecError: The address is of another form, or the credentials cannot be used.

    Every call raises `RemoteError` when the server cannot be reached, does not answer in time or answers an error; the
    message holds address, model, status and what the server said.
    """

    def __init__(self, address: str, timeout_s: float = 30.0, credentials: Credentials | None = None) -> None:
        self.address, self._timeout_s = address, timeout_s
        self._credentials = find_credentials(address) if credentials is None else credentials
        self._channel = _channel(address, self._credentials)
        self._metadata = _metadata(address, self._credentials)
        self._calls = {
            name: self._channel.unary_unary(path)  # bytes on both sides: encoding is timed here, not inside gRPC
            for name, (path, _, _) in METHODS.items()
        }
        self._calls["Metrics"] = self._channel.unary_unary(METRICS_PATH)

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with `RemoteError`."""
        self._channel.close()

    def live(self, wait_s: float = 0.0) -> bool:
        """Whether the server answers at all; waits up to ``wait_s`` for it to come up."""
        request = protocol.ServerLiveRequest().SerializeToString()
        try:
            raw = self._calls["ServerLive"](
                request,
                timeout=wait_s if wait_s > 0 else self._timeout_s,
                wait_for_ready=wait_s > 0,
                metadata=self._metadata,
            )
        except grpc.RpcError:
            return False
        return bool(protocol.ServerLiveResponse.FromString(raw).live)

    def ready(self) -> bool:
        """Whether the server is ready to serve."""
        return bool(self._ask("ServerReady", protocol.ServerReadyRequest()).ready)

    def model_ready(self, name: str) -> bool:
        """Whether the model ``name`` can be asked."""
        return bool(self._ask("ModelReady", protocol.ModelReadyRequest(name=name), name).ready)

    def server_metadata(self) -> ServerMetadata:
        """What the server says about itself."""
        answer = self._ask("ServerMetadata", protocol.ServerMetadataRequest())
        return ServerMetadata(answer.name, answer.version, tuple(answer.extensions))

    def model_metadata(self, name: str) -> ModelMetadata:
        """What the server says about the model ``name``."""
        answer = self._ask("ModelMetadata", protocol.ModelMetadataRequest(name=name), name)
        return ModelMetadata(
            name=answer.name,
            versions=tuple(answer.versions),
            platform=answer.platform,
            inputs=_specs(answer.inputs),
            outputs=_specs(answer.outputs),
            properties=dict(answer.properties),
        )

    def index(self, only_ready: bool = False) -> list[ModelStatus]:
        """All models of the server's repository."""
        answer = self._ask("RepositoryIndex", protocol.RepositoryIndexRequest(ready=only_ready))
        return [ModelStatus(m.name, m.version, m.state, m.reason) for m in answer.models]

    def load(
        self,
        name: str,
        config: bytes | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Load or replace the model ``name``.

        Args:
            name: The name to serve it under.
            config: How to serve it, JSON text; what it holds is the server's matter.
            files: Contents by file name; sent as ``file:1/NAME``. None: what the repository already holds.
            timeout_s: Default: ten times the client's (models are large and sessions take time).
        """
        sent = Push(name, config, files or {}).encode()
        self._call("RepositoryModelLoad", sent, name, timeout_s or 10 * self._timeout_s)

    def unload(self, name: str) -> None:
        """Stop serving the model ``name``."""
        self._ask("RepositoryModelUnload", protocol.RepositoryModelUnloadRequest(model_name=name), name)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        version: str = "",
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Inference:
        """Ask a model.

        Args:
            model: Its name.
            inputs: Tensors by name; BYTES as object arrays of bytes.
            outputs: Names of the outputs wanted; None: all.
            timeout_s: Default: the client's.
            version: Version of the model; empty: the newest.
            parameters: Parameters of the request (``priority``, ``timeout`` in microseconds, ...).

        Raises:
            InputError: A tensor has no counterpart in the protocol.
        """
        request = infer_request(model, inputs, outputs)
        request.message.model_version = version
        write_parameters(request.message.parameters, parameters or {})
        exchange = self.exchange(request, timeout_s)
        try:
            tensors = exchange.response.tensors()
        except InputError as error:
            raise self._broken(error, model) from error
        parameters = read_parameters(exchange.response.message.parameters)
        return Inference(tensors, parameters, exchange.sent_bytes, exchange.received_bytes)

    def metrics(self, timeout_s: float | None = None) -> str:
        """What the node counts and times, in Prometheus' text format; an extension of Tierwise's nodes."""
        try:
            text: str = BytesValue.FromString(self._call("Metrics", b"", None, timeout_s)).value.decode()
        except (DecodeError, UnicodeDecodeError) as error:
            raise RemoteError(f"the node must answer Metrics with text ({error})", where=self.address) from error
        return text

    def exchange(
        self, request: Framed, timeout_s: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Exchange:
        """Send a request as a message and give back the answer as a message, with times and sizes.

        Args:
            request: The message.
            timeout_s: Default: the client's.
            headers: Sent beside it, as gRPC's metadata; names in lower case.
        """
        started_ns = time.monotonic_ns()
        sent = request.encode()
        sent_ns = time.monotonic_ns()
        received = self._call("ModelInfer", sent, request.message.model_name, timeout_s, headers)
        answered_ns = time.monotonic_ns()
        try:
            response = decode_response(received)
        except InputError as error:
            raise self._broken(error, request.message.model_name) from error
        decode_ns = time.monotonic_ns() - answered_ns
        return Exchange(response, len(sent), len(received), sent_ns - started_ns, sent_ns, answered_ns, decode_ns)

    def _broken(self, error: InputError, model: str) -> RemoteError:
        return RemoteError(f"the answer of model {model!r} must hold valid tensors ({error})", where=self.address)

    def _ask(self, method: str, request: Any, model: str | None = None, timeout_s: float | None = None) -> Any:
        return METHODS[method][2].FromString(self._call(method, request.SerializeToString(), model, timeout_s))

    def _call(
        self,
        method: str,
        sent: bytes,
        model: str | None,
        timeout_s: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        try:
            received: bytes = self._calls[method](
                sent,
                timeout=self._timeout_s if timeout_s is None else timeout_s,
                metadata=(*self._metadata, *headers.items()) if headers else self._metadata,
            )
        except grpc.RpcError as error:
            raise self._remote_error(error, method, model) from error
        except ValueError as error:  # what gRPC raises for a closed channel
            raise RemoteError(f"{method} must be called on an open client ({error})", where=self.address) from error
        return received

    def _remote_error(self, error: Any, method: str, model: str | None) -> RemoteError:
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
        return RemoteError(
            f"the node must answer {method}{about}", got=f"{code.name}: {details}", where=self.address, fix=fix
        )


def _channel(address: str, credentials: Credentials | None) -> grpc.Channel:
    # gRPC knows further forms, which reach resolvers and sockets that nobody meant.
    if not _ADDRESS.fullmatch(address):
        raise SpecError("an address must be HOST:PORT or unix:PATH", got=repr(address[:200]))
    if credentials is None or credentials.tls is None or address.startswith("unix:"):
        return grpc.insecure_channel(address, options=_CLIENT_OPTIONS)
    tls = credentials.tls
    named = () if tls.name is None else (("grpc.ssl_target_name_override", tls.name),)
    return grpc.secure_channel(address, channel_credentials(tls), options=(*_CLIENT_OPTIONS, *named))


def _metadata(address: str, credentials: Credentials | None) -> tuple[tuple[str, str], ...]:
    token = None if credentials is None else credentials.token(address)
    return () if token is None else (("authorization", f"Bearer {token}"),)


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=t.name, dtype=t.datatype, shape=tuple(t.shape)) for t in tensors)
