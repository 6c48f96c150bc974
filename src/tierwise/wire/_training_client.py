"""A client of the training that a node offers beside the protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar, final

import msgspec
import numpy.typing as npt
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue

from tierwise._config import Spec
from tierwise._errors import InputError, RemoteError
from tierwise.wire._channel import call_metadata, open_channel, remote_error
from tierwise.wire._credentials import Credentials, find_credentials
from tierwise.wire._messages import infer_request, write_parameters
from tierwise.wire._push import Push
from tierwise.wire._training import LABELS, STEP, TRAINING_SERVICE, BatchTaken, TrainingOrder, TrainingStatus

__all__ = ["DELTA", "TrainingClient"]

DELTA: Final = "delta"
"""Name of the file in a request that brings a delta."""

_VERBS: Final = ("Begin", "Batch", "Status", "Save", "Swap", "Delta", "Apply", "Stop")

Answer = TypeVar("Answer", bound=Spec)

Batch = tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[Any]]


@final
class TrainingClient:
    """A connection to one node; may be used from several threads, and is closed by ``close`` or ``with``.

    Args:
        address: ``host:port`` or ``unix:/path``.
        timeout_s: How long a call may take; a batch waits for its turn under the CPU share.
        credentials: How it is let in; None: as the environment says (`find_credentials`), if it does.

    Raises:
        SpecError: The address is of another form, or the credentials cannot be used.

    Every call raises `RemoteError` when the node cannot be reached, does not answer in time or refuses.
    """

    def __init__(self, address: str, timeout_s: float = 120.0, credentials: Credentials | None = None) -> None:
        self.address, self._timeout_s = address, timeout_s
        known = find_credentials(address) if credentials is None else credentials
        self._channel, self._metadata = open_channel(address, known), call_metadata(address, known)
        self._calls = {verb: self._channel.unary_unary(f"/{TRAINING_SERVICE}/{verb}") for verb in _VERBS}
        self._batches = self._channel.stream_stream(f"/{TRAINING_SERVICE}/Batches")

    def __enter__(self) -> TrainingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with `RemoteError`."""
        self._channel.close()

    def begin(self, model: str, order: TrainingOrder | None = None) -> TrainingStatus:
        """Train the model as the order says, from its checkpoint where there is one."""
        return self._told("Begin", model, msgspec.json.encode(order or TrainingOrder()))

    def status(self, model: str) -> TrainingStatus:
        """How the training of the model goes."""
        return self._told("Status", model)

    def batch(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[Any],
        step: int | None = None,
    ) -> BatchTaken:
        """Have the model learn from one batch; returns when it has.

        Args:
            model: Its name.
            inputs: As for `InferenceClient.infer`, exactly as many items as the step was compiled for.
            labels: Their classes, [n].
            step: Steps taken before, as far as the caller knows; where it is another, the batch is refused.

        Raises:
            InputError: A tensor has no counterpart in the protocol.
        """
        return self._decoded(
            "Batch", model, self._call("Batch", model, _encoded(model, inputs, labels, step)), BatchTaken
        )

    def batches(self, model: str, batches: Iterable[Batch], step: int | None = None) -> Iterator[BatchTaken]:
        """Have the model learn from a stream of batches, one call for all; gives what came of each.

        Args:
            model: Its name.
            batches: Inputs and labels as for `batch`; taken as the node takes them.
            step: Steps taken before the first.
        """
        import grpc

        sent = (
            _encoded(model, inputs, labels, None if step is None else step + number)
            for number, (inputs, labels) in enumerate(batches)
        )
        try:
            for raw in self._batches(sent, metadata=self._metadata):
                yield self._decoded("Batches", model, raw, BatchTaken)
        except grpc.RpcError as error:
            raise remote_error(error, "Batches", model, self.address) from error

    def save(self, model: str) -> TrainingStatus:
        """Write a checkpoint now."""
        return self._told("Save", model)

    def swap(self, model: str) -> TrainingStatus:
        """Let the served model take over the weights now."""
        return self._told("Swap", model)

    def stop(self, model: str) -> TrainingStatus:
        """End the training behind a checkpoint; the served model keeps the weights it has."""
        return self._told("Stop", model)

    def export_delta(self, model: str) -> bytes:
        """The trained tensors as they are now, as a safetensors file for any copy of the artifact."""
        return self._value("Delta", model, self._call("Delta", model, Push(model, None, {}).encode()))

    def apply_delta(self, model: str, delta: bytes) -> TrainingStatus:
        """Take over what was learnt elsewhere, and serve it."""
        return self._told("Apply", model, None, {DELTA: delta})

    def _told(
        self, verb: str, model: str, config: bytes | None = None, files: Mapping[str, bytes] | None = None
    ) -> TrainingStatus:
        raw = self._call(verb, model, Push(model, config, files or {}).encode())
        return self._decoded(verb, model, raw, TrainingStatus)

    def _call(self, verb: str, model: str, sent: bytes) -> bytes:
        import grpc

        try:
            received: bytes = self._calls[verb](sent, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise remote_error(error, verb, model, self.address) from error
        except ValueError as error:  # what gRPC raises for a closed channel
            raise RemoteError(f"{verb} must be called on an open client ({error})", where=self.address) from error
        return received

    def _value(self, verb: str, model: str, raw: bytes) -> bytes:
        try:
            value: bytes = BytesValue.FromString(raw).value
        except DecodeError as error:
            raise RemoteError(
                f"the node must answer {verb} for model {model!r} ({error})", where=self.address
            ) from error
        return value

    def _decoded(self, verb: str, model: str, raw: bytes, kind: type[Answer]) -> Answer:
        try:
            return msgspec.json.decode(self._value(verb, model, raw), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteError(
                f"the node must answer {verb} for model {model!r} ({error})", where=self.address
            ) from error


def _encoded(model: str, inputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[Any], step: int | None) -> bytes:
    if LABELS in inputs:
        raise InputError(f"no input of a batch may be called {LABELS!r}", where=model)
    request = infer_request(model, {**inputs, LABELS: labels})
    if step is not None:
        write_parameters(request.message.parameters, {STEP: step})
    return request.encode()
