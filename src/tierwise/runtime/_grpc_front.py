"""The gRPC front: the Open Inference Protocol v2 in bytes and statuses, and nothing about models."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, final

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue

from tierwise._errors import InputError
from tierwise.runtime._call import Answer, Call
from tierwise.runtime._desk import Desk
from tierwise.runtime._guard import Method, Peer, Principal
from tierwise.runtime._hop import path_parameters
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._statistics import Duration, ModelStatistics
from tierwise.runtime._training_desk import TrainingAsk
from tierwise.wire import (
    METHODS,
    METRICS_PATH,
    TRAINING_SERVICE,
    Parameter,
    TensorLimits,
    decode_push,
    decode_request,
    protocol,
    read_parameters,
    write_parameters,
)

__all__ = ["GrpcFront"]

_LONGEST_WAIT_S: Final = 30 * 86_400.0

_STATUS: Final = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.UNSUITED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_LATE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}

# What each method of the protocol is to the guard.
_METHODS: Final[dict[str, Method]] = {
    "ServerLive": "live",
    "ServerReady": "ready",
    "ServerMetadata": "server_metadata",
    "ModelReady": "model_ready",
    "ModelMetadata": "model_metadata",
    "ModelStatistics": "statistics",
    "ModelInfer": "infer",
    "RepositoryIndex": "index",
    "RepositoryModelLoad": "load",
    "RepositoryModelUnload": "unload",
}

# Tierwise's own methods of training, and what each is to the desk; `Batch` and `Batches` take requests for inference.
_TRAINING: Final[dict[str, TrainingAsk]] = {
    "Begin": "begin",
    "Status": "status",
    "Save": "save",
    "Swap": "swap",
    "Delta": "delta",
    "Apply": "apply",
    "Stop": "stop",
}


@final
class GrpcFront:
    """The protocol's methods over a desk.

    Args:
        desk: Who answers.
        certificates: Whether clients may show certificates.
    """

    def __init__(self, desk: Desk, certificates: bool = False) -> None:
        self._desk, self._certificates = desk, certificates

    def routes(self) -> grpc.GenericRpcHandler:
        """What gRPC calls for each method."""
        answers: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: protocol.ServerLiveResponse(live=True),
            "ServerReady": lambda _: protocol.ServerReadyResponse(ready=self._desk.ready()),
            "ServerMetadata": self._metadata,
            "ModelReady": lambda asked: protocol.ModelReadyResponse(
                ready=self._desk.model_ready(asked.name, asked.version)
            ),
            "ModelMetadata": self._model_metadata,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelUnload": self._unload,
        }
        routes = {name: self._route(_METHODS[name], _parsing(name, answer)) for name, answer in answers.items()}
        # These two take large contents from the bytes themselves.
        routes["RepositoryModelLoad"] = grpc.stream_unary_rpc_method_handler(self._admitted_load)
        routes["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        return grpc.method_handlers_generic_handler(METHODS["ModelInfer"][0].split("/")[1], routes)

    def own_routes(self) -> grpc.GenericRpcHandler:
        """What gRPC calls for Tierwise's own methods beside the protocol's."""
        _, service, method = METRICS_PATH.split("/")
        return grpc.method_handlers_generic_handler(service, {method: self._route("statistics", self._metrics)})

    def training_routes(self) -> grpc.GenericRpcHandler:
        """What gRPC calls for the methods of training."""
        routes = {name: self._route("train", functools.partial(self._train, verb)) for name, verb in _TRAINING.items()}
        routes["Batch"] = self._route("train", self._batch)
        routes["Batches"] = grpc.stream_stream_rpc_method_handler(self._batches)
        return grpc.method_handlers_generic_handler(TRAINING_SERVICE, routes)

    def _train(self, verb: TrainingAsk, raw: bytes) -> bytes:
        told: bytes = BytesValue(value=self._desk.training.tell(verb, decode_push(raw))).SerializeToString()
        return told

    def _batch(self, raw: bytes) -> bytes:
        spec = self._desk.spec
        taken = self._desk.training.batch(decode_request(raw, spec.limits.tensors), spec.max_message_bytes)
        told: bytes = BytesValue(value=taken).SerializeToString()
        return told

    def _batches(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Each message is let in as a request of its own: a token that ended, or a quota, holds within a stream too."""
        try:
            for raw in messages:
                self._desk.admit(_peer(context, self._certificates), "train")
                with self._desk.refusals():
                    taken = self._batch(raw)
                yield taken
        except RefusalError as refusal:
            _abort(context, refusal)
            raise

    def _route(self, method: Method, answer: Callable[[bytes], bytes]) -> grpc.RpcMethodHandler:
        def call(raw: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                self._desk.admit(_peer(context, self._certificates), method)
                with self._desk.refusals():
                    return answer(raw)
            except RefusalError as refusal:
                _abort(context, refusal)
                raise

        return grpc.unary_unary_rpc_method_handler(call)

    def _infer(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        received_ns = self._desk.clock.now_ns()
        try:
            principal = self._desk.admit(_peer(context, self._certificates), "infer")
            return self._desk.answer(_call(raw, received_ns, principal, context, self._desk.spec.limits.tensors))
        except RefusalError as refusal:
            _abort(context, refusal)
            raise
        except Exception as error:  # of the decoding
            _abort(context, self._desk.refusal(error))
            raise

    def _metadata(self, _: Any) -> Any:
        told = self._desk.metadata()
        return protocol.ServerMetadataResponse(name=told.name, version=told.version, extensions=told.extensions)

    def _model_metadata(self, asked: Any) -> Any:
        told = self._desk.model_metadata(asked.name, asked.version)
        message = protocol.ModelMetadataResponse(
            name=told.name, versions=told.versions, platform=told.platform, properties=told.properties
        )
        for target, specs in ((message.inputs, told.inputs), (message.outputs, told.outputs)):
            for spec in specs:
                target.add(name=spec.name, datatype=spec.dtype, shape=spec.shape)
        return message

    def _statistics(self, asked: Any) -> Any:
        told = self._desk.statistics(asked.name, asked.version)
        return protocol.ModelStatisticsResponse(model_stats=[_statistics_message(model) for model in told])

    def _metrics(self, _: bytes) -> bytes:
        message: bytes = BytesValue(value=self._desk.exposition()).SerializeToString()
        return message

    def _index(self, asked: Any) -> Any:
        response = protocol.RepositoryIndexResponse()
        for model in self._desk.index(asked.ready):
            response.models.add(name=model.name, version=model.version, state=model.state, reason=model.reason)
        return response

    def _admitted_load(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """On the wire one message is a stream of one: taken as such, it is read after its sender was let in."""
        try:
            self._desk.admit(_peer(context, self._certificates), "load")
            with self._desk.refusals():
                push = decode_push(_only(messages))
                self._desk.load(push.model, push.config, push.files)
                return b""  # the answer has no fields
        except RefusalError as refusal:
            _abort(context, refusal)
            raise

    def _unload(self, asked: Any) -> Any:
        self._desk.unload(asked.model_name)
        return protocol.RepositoryModelUnloadResponse()


def _call(
    raw: bytes, received_ns: int, principal: Principal, context: grpc.ServicerContext, limits: TensorLimits
) -> Call:
    request = decode_request(raw, limits)
    asked = request.message
    return Call(
        model=asked.model_name,
        contents=request,
        encode=_encode,
        size_bytes=len(raw),
        received_ns=received_ns,
        version=asked.model_version,
        id=asked.id,
        wanted=tuple(output.name for output in asked.outputs),
        timeout_s=_left_s(context),
        parameters=read_parameters(asked.parameters),
        headers=_trace_headers(context),
        principal=principal,
    )


def _parsing(name: str, answer: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    request_class = METHODS[name][1]

    def call(raw: bytes) -> bytes:
        try:
            request = request_class.FromString(raw)
        except DecodeError as error:
            raise InputError(f"the bytes must be a {request_class.DESCRIPTOR.name} ({error})") from error
        response: bytes = answer(request).SerializeToString()
        return response

    return call


def _encode(answer: Answer) -> bytes:
    framed = answer.framed()
    if not answer.accounted:
        return framed.encode(_encoded_path(answer.account.path, answer.account.weights))
    return framed.encode(_encoded_parameters(answer.told()))


@functools.lru_cache(maxsize=256)
def _encoded_path(path: tuple[str, ...], weights: str | None) -> bytes:
    """What stands in every answer, as the bytes of its own part of the message: most answers took one of few paths."""
    return _encoded_parameters(path_parameters(path, weights))


def _encoded_parameters(told: Mapping[str, Parameter]) -> bytes:
    message = protocol.ModelInferResponse()
    write_parameters(message.parameters, told)
    encoded: bytes = message.SerializeToString()
    return encoded


def _statistics_message(model: ModelStatistics) -> Any:
    def duration(value: Duration) -> Any:
        return protocol.StatisticDuration(count=value.count, ns=value.ns)

    return protocol.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=model.last_inference_ms,
        inference_count=model.inference_count,
        execution_count=model.execution_count,
        inference_stats=protocol.InferStatistics(
            success=duration(model.success),
            fail=duration(model.fail),
            queue=duration(model.queue),
            compute_input=duration(model.compute_input),
            compute_infer=duration(model.compute_infer),
            compute_output=duration(model.compute_output),
        ),
        batch_stats=[
            protocol.InferBatchStatistics(
                batch_size=batch.batch_size,
                compute_input=duration(batch.compute_input),
                compute_infer=duration(batch.compute_infer),
                compute_output=duration(batch.compute_output),
            )
            for batch in model.batches
        ],
    )


def _only(messages: Iterator[bytes]) -> bytes:
    message = next(messages, None)
    if message is None:
        raise InputError("a request must have a message")
    return message


def _abort(context: grpc.ServicerContext, refusal: RefusalError) -> None:
    if refusal.retry_after_s is not None:
        context.set_trailing_metadata((("retry-after", f"{refusal.retry_after_s:.3f}"),))
    context.abort(_STATUS[refusal.code], refusal.text)


def _left_s(context: grpc.ServicerContext) -> float | None:
    """Time the client still waits; None where it did not say."""
    left_s: float | None = context.time_remaining()
    # gRPC tells an absent deadline as one in centuries, which overflows when it is handed on.
    return None if left_s is None or left_s > _LONGEST_WAIT_S else left_s


def _peer(context: grpc.ServicerContext, certificates: bool) -> Peer:
    token = None
    for key, value in context.invocation_metadata():
        if key == "authorization" and value[:7].lower() == "bearer ":
            token = value[7:].strip()
    address, loopback = _address(context.peer())
    names = () if not certificates else _names(context)
    return Peer(address, loopback, token, names)


def _names(context: grpc.ServicerContext) -> tuple[str, ...]:
    return tuple(
        name.decode("utf-8", "replace")
        for key in ("x509_subject_alternative_name", "x509_common_name")
        for name in context.auth_context().get(key, ())
    )


@functools.lru_cache(maxsize=1024)
def _address(peer: str) -> tuple[str, bool]:
    """A peer, as gRPC names it: ``host:port`` (``unix:`` for sockets of this machine), and whether it is local."""
    if peer.startswith("unix"):
        return "unix:", True
    address = peer.partition(":")[2].replace("%5B", "[").replace("%5D", "]")
    host = address.rpartition(":")[0].strip("[]")
    try:
        return address, ipaddress.ip_address(host).is_loopback
    except ValueError:
        return address, False


def _trace_headers(context: grpc.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() if key in ("traceparent", "tracestate")}
