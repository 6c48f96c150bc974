"""The Open Inference Protocol v2, server side: bytes in, bytes out, and a clear status for everything that is wrong."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, final

import grpc
import msgspec
from google.protobuf.message import DecodeError

from tierwise import __version__
from tierwise._clock import Clock
from tierwise._errors import InputError, TierwiseError, UnavailableError
from tierwise.runtime._hop import to_parameters
from tierwise.runtime._refusal import RefusalError
from tierwise.runtime._repository import Repository
from tierwise.runtime._spec import NodeSpec, Share
from tierwise.runtime._turnstile import Turnstile
from tierwise.runtime._visit import Visit
from tierwise.wire import METHODS, decode_push, decode_request, protocol, write_parameters

__all__ = ["EXTENSIONS", "Service"]

EXTENSIONS: Final = ("model_repository", "tierwise.stages")

# gRPC carries the message in a header, which clients accept up to 8 kB.
_LONGEST_MESSAGE: Final = 2000

_LONGEST_WAIT_S: Final = 30 * 86_400.0

_STATUS: Final[tuple[tuple[type[Exception], grpc.StatusCode], ...]] = (
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnavailableError, grpc.StatusCode.FAILED_PRECONDITION),
    (TierwiseError, grpc.StatusCode.INTERNAL),
    (DecodeError, grpc.StatusCode.INVALID_ARGUMENT),
)


@final
class Service:
    """The protocol's methods over a repository.

    Args:
        spec: How the node serves.
        repository: Its models.
        turnstile: Who computes next.
        clock: The host's clock.
    """

    def __init__(self, spec: NodeSpec, repository: Repository, turnstile: Turnstile, clock: Clock) -> None:
        self._spec, self._repository, self._turnstile, self._clock = spec, repository, turnstile, clock
        self._places = threading.BoundedSemaphore(spec.max_waiting)

    def routes(self) -> grpc.GenericRpcHandler:
        """What gRPC calls for each method."""
        answers: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: protocol.ServerLiveResponse(live=True),
            "ServerReady": lambda _: protocol.ServerReadyResponse(ready=True),
            "ServerMetadata": lambda _: protocol.ServerMetadataResponse(
                name="tierwise", version=__version__, extensions=EXTENSIONS
            ),
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._index,
            "RepositoryModelUnload": self._unload,
        }
        routes = {name: self._route(name, answer) for name, answer in answers.items()}
        # These two take large contents from the bytes themselves.
        routes["RepositoryModelLoad"] = grpc.unary_unary_rpc_method_handler(self._load)
        routes["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        return grpc.method_handlers_generic_handler(METHODS["ModelInfer"][0].split("/")[1], routes)

    def _route(self, name: str, answer: Callable[[Any], Any]) -> grpc.RpcMethodHandler:
        request_class = METHODS[name][1]

        def call(raw: bytes, context: grpc.ServicerContext) -> bytes:
            with self._statuses(context):
                response: bytes = answer(request_class.FromString(raw)).SerializeToString()
                return response

        return grpc.unary_unary_rpc_method_handler(call)

    @contextmanager
    def _statuses(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Errors become statuses whose message names this tier; the node lives on."""
        try:
            yield
        except RefusalError as error:
            self._abort(context, error.status, error)
        except Exception as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
            if status is None:
                traceback.print_exc(file=sys.stderr)
                error = RuntimeError(f"unexpected {type(error).__name__}: {error}")
            self._abort(context, status or grpc.StatusCode.INTERNAL, error)

    def _abort(self, context: grpc.ServicerContext, status: grpc.StatusCode, error: Exception) -> None:
        context.abort(status, f"tier {self._spec.tier}: {error}"[:_LONGEST_MESSAGE])

    def _infer(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        received_ns = self._clock.now_ns()
        with self._statuses(context), self._place(len(raw)):
            visit = Visit(self._spec.tier, self._turnstile, self._spec.pace_frac, self._clock, _left_s(context))
            with visit.computing("decode"):
                request = decode_request(raw)
            model = self._repository.model(request.message.model_name, request.message.model_version)
            response, account = model.answer(request, visit)
            # The account cannot hold the time of its own encoding, nor of joining it to the contents (a copy of them);
            # both count as the way back.
            account_message = protocol.ModelInferResponse()
            answered_ns = self._clock.now_ns()
            write_parameters(
                account_message.parameters, to_parameters(account, visit.timeline.entries(), received_ns, answered_ns)
            )
            return response.encode(account_message.SerializeToString())
        raise AssertionError("abort raises")

    @contextmanager
    def _place(self, size_bytes: int) -> Iterator[None]:
        if size_bytes > self._spec.max_message_bytes:
            raise _exhausted(
                f"a request must have at most {self._spec.max_message_bytes:,} bytes",
                f"{size_bytes:,}",
                "Send fewer items at once",
            )
        if not self._places.acquire(blocking=False):
            raise _exhausted(f"at most {self._spec.max_waiting} requests may wait", None, "Ask again later")
        try:
            yield
        finally:
            self._places.release()

    def _model_ready(self, request: protocol.ModelReadyRequest) -> protocol.ModelReadyResponse:
        try:
            self._repository.model(request.name, request.version)
        except RefusalError:
            return protocol.ModelReadyResponse(ready=False)
        return protocol.ModelReadyResponse(ready=True)

    def _model_metadata(self, request: protocol.ModelMetadataRequest) -> protocol.ModelMetadataResponse:
        return self._repository.model(request.name, request.version).metadata(self._spec.tier)

    def _index(self, request: protocol.RepositoryIndexRequest) -> protocol.RepositoryIndexResponse:
        response = protocol.RepositoryIndexResponse()
        for entry in self._repository.index():
            if entry.ready or not request.ready:
                state = "READY" if entry.ready else "UNAVAILABLE"
                response.models.add(name=entry.name, version="1", state=state, reason=entry.reason)
        return response

    def _load(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        with self._statuses(context):
            push = decode_push(raw)
            self._repository.load(push.model, Share() if push.config is None else _share(push.config), push.files)
            _give_memory_back()
        return b""  # the answer has no fields

    def _unload(self, request: protocol.RepositoryModelUnloadRequest) -> protocol.RepositoryModelUnloadResponse:
        self._repository.unload(request.model_name)
        return protocol.RepositoryModelUnloadResponse()


def _left_s(context: grpc.ServicerContext) -> float | None:
    """Time the client still waits; None where it did not say."""
    left_s: float | None = context.time_remaining()
    # gRPC tells an absent deadline as one in centuries, which overflows when it is handed on.
    return None if left_s is None or left_s > _LONGEST_WAIT_S else left_s


def _share(text: bytes) -> Share:
    try:
        return msgspec.json.decode(text, type=Share)
    except msgspec.DecodeError as error:
        raise InputError(
            f'the config must be JSON of a share, such as {{"segments": [0, 1]}} ({error})', where="config"
        ) from error


def _exhausted(must: str, got: str | None, fix: str) -> RefusalError:
    return RefusalError(grpc.StatusCode.RESOURCE_EXHAUSTED, InputError(must, got=got, fix=fix))


def _give_memory_back() -> None:
    """What receiving an artifact took goes back to the system; the allocator would keep most of it for this process."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # glibc has it; others need none
        trim(0)
