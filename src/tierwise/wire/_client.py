"""A client of the Open Inference Protocol v2 over gRPC, with the model repository extension."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import numpy.typing as npt
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue

from tierwise._errors import InputError, RemoteError
from tierwise.artifact import TensorSpec
from tierwise.wire._channel import call_metadata, open_channel, remote_error
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

if TYPE_CHECKING:
    import grpc

__all__ = [
    "Exchange",
    "Inference",
    "InferenceClient",
    "ModelMetadata",
    "ModelStatus",
    "ServerMetadata",
    "status_of",
]


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
    import grpc

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
        self._channel = open_channel(address, self._credentials)
        self._metadata = call_metadata(address, self._credentials)
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
        import grpc

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
        import grpc

        try:
            received: bytes = self._calls[method](
                sent,
                timeout=self._timeout_s if timeout_s is None else timeout_s,
                metadata=(*self._metadata, *headers.items()) if headers else self._metadata,
            )
        except grpc.RpcError as error:
            raise remote_error(error, method, model, self.address) from error
        except ValueError as error:  # what gRPC raises for a closed channel
            raise RemoteError(f"{method} must be called on an open client ({error})", where=self.address) from error
        return received


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=t.name, dtype=t.datatype, shape=tuple(t.shape)) for t in tensors)
