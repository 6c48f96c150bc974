"""Requests and answers of the protocol: messages from tensors and parameters, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy.typing as npt
from google.protobuf.message import DecodeError

from tierwise._errors import InputError
from tierwise.wire._frames import Buffer, join_contents, split_contents
from tierwise.wire._limits import UNLIMITED, TensorLimits
from tierwise.wire._stubs import open_inference_pb2 as protocol
from tierwise.wire._tensors import InferTensor, from_message, from_typed, to_message

__all__ = [
    "METHODS",
    "METRICS_PATH",
    "Framed",
    "Parameter",
    "decode_request",
    "decode_response",
    "infer_request",
    "infer_response",
    "read_parameters",
    "write_parameters",
]

Parameter = bool | int | float | str

_REQUEST_CONTENTS = protocol.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RESPONSE_CONTENTS = protocol.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER

# Below this size copying contents through the message is quicker than finding them in its bytes.
_SMALL_BYTES = 16_384

SERVICE = protocol.DESCRIPTOR.services_by_name["GRPCInferenceService"]

METHODS: dict[str, tuple[str, Any, Any]] = {
    method.name: (
        f"/{SERVICE.full_name}/{method.name}",
        getattr(protocol, method.input_type.name),
        getattr(protocol, method.output_type.name),
    )
    for method in SERVICE.methods
}
"""Name of each method to its path, request class and response class."""

METRICS_PATH = "/tierwise.Observation/Metrics"
"""Tierwise's own method: nothing in, a ``google.protobuf.BytesValue`` of Prometheus' text out.

Beside the HTTP route of the same text, so that whoever can reach a node at all can see how it does."""


def write_parameters(target: Any, parameters: Mapping[str, Parameter]) -> None:
    """Add parameters to the map field ``target`` of a request or answer."""
    for key, value in parameters.items():
        if isinstance(value, bool):
            target[key].bool_param = value
        elif isinstance(value, int):
            target[key].int64_param = value
        elif isinstance(value, float):
            target[key].double_param = value
        else:
            target[key].string_param = value


def read_parameters(source: Any) -> dict[str, Parameter]:
    """The parameters of a request or answer as plain values; those without a value are left out."""
    return {
        key: getattr(parameter, kind)
        for key, parameter in source.items()
        if (kind := parameter.WhichOneof("parameter_choice"))
    }


@final
@dataclass
class Framed:
    """A request for inference or its answer, with the raw contents of its tensors beside it.

    Attributes:
        message: A ``ModelInferRequest`` or ``ModelInferResponse`` without raw contents.
        contents: Raw contents of the message's tensors in their order; empty where the message holds typed ones.
        limits: How large its tensors may be.
    """

    message: Any
    contents: tuple[Buffer, ...]
    limits: TensorLimits = UNLIMITED

    def encode(self, *more: bytes) -> bytes:
        """The bytes that travel; ``more`` are further fields, encoded as a message of the same kind."""
        number = _REQUEST_CONTENTS if self._is_request else _RESPONSE_CONTENTS
        return join_contents(self.message.SerializeToString(), number, self.contents, *more)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The tensors by name, from raw or typed contents; they may share memory with the contents.

        Raises:
            InputError: A name comes twice, contents are missing or do not fit datatype and shape, or they are beyond
                the limits.
        """
        return _read(self.message.inputs if self._is_request else self.message.outputs, self.contents, self.limits)

    @property
    def _is_request(self) -> bool:
        return isinstance(self.message, protocol.ModelInferRequest)


def infer_request(model: str, tensors: Mapping[str, npt.NDArray[Any]], outputs: Iterable[str] | None = None) -> Framed:
    """A request with raw contents, which share the arrays' memory.

    Raises:
        InputError: A tensor has no counterpart in the protocol.
    """
    message = protocol.ModelInferRequest(model_name=model)
    for name in outputs or ():
        message.outputs.add(name=name)
    return Framed(message, _fill(message.inputs, tensors))


def infer_response(model: str, request_id: str, tensors: Mapping[str, npt.NDArray[Any]], version: str = "1") -> Framed:
    """An answer with raw contents, which share the arrays' memory.

    Raises:
        InputError: A tensor has no counterpart in the protocol.
    """
    message = protocol.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    return Framed(message, _fill(message.outputs, tensors))


def decode_request(content: bytes, limits: TensorLimits = UNLIMITED) -> Framed:
    """A request from its bytes; raw contents share their memory.

    Args:
        content: The bytes.
        limits: How large its tensors may be.

    Raises:
        InputError: The bytes are not such a message, or it has too many tensors.
    """
    request = _decode(content, protocol.ModelInferRequest, _REQUEST_CONTENTS, limits)
    limits.check_count(max(len(request.message.inputs), len(request.message.outputs)))
    return request


def decode_response(content: bytes) -> Framed:
    """An answer from its bytes; raw contents share their memory.

    Raises:
        InputError: As `decode_request`.
    """
    return _decode(content, protocol.ModelInferResponse, _RESPONSE_CONTENTS, UNLIMITED)


def _decode(content: bytes, kind: Any, number: int, limits: TensorLimits) -> Framed:
    try:
        if len(content) < _SMALL_BYTES:
            message = kind.FromString(content)
            field = kind.DESCRIPTOR.fields_by_number[number].name
            contents: tuple[Buffer, ...] = tuple(getattr(message, field))
            message.ClearField(field)
            return Framed(message, contents, limits)
        rest, contents = split_contents(content, number)
        return Framed(kind.FromString(rest), contents, limits)
    except DecodeError as error:
        raise InputError(f"the bytes must be a {kind.DESCRIPTOR.name} ({error})") from error


def _fill(heads: Any, tensors: Mapping[str, npt.NDArray[Any]]) -> tuple[Buffer, ...]:
    contents = []
    for name, array in tensors.items():
        tensor = to_message(name, array)
        heads.add(name=name, datatype=tensor.dtype, shape=tensor.shape)
        contents.append(tensor.raw)
    return tuple(contents)


def _read(heads: Any, contents: Sequence[Buffer], limits: TensorLimits) -> dict[str, npt.NDArray[Any]]:
    if len(contents) not in (0, len(heads)):
        raise InputError(f"raw contents must be given for all {len(heads)} tensors or none", got=len(contents))
    tensors: dict[str, npt.NDArray[Any]] = {}
    for i, head in enumerate(heads):
        if head.name in tensors:
            raise InputError("a tensor must be given once", where=head.name)
        limits.check_tensor(head.name, head.datatype, head.shape, listed=not contents)
        if contents:
            tensors[head.name] = from_message(InferTensor(head.name, head.datatype, tuple(head.shape), contents[i]))
        elif "shared_memory_region" in head.parameters:
            raise InputError("contents must be in the message: shared memory is not offered", where=head.name)
        else:
            tensors[head.name] = from_typed(head.name, head.datatype, head.shape, head.contents)
    return tensors
