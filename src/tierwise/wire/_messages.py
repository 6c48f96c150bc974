"""Requests and answers of the protocol: messages from tensors and parameters, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.wire._stubs import open_inference_pb2 as protocol
from tierwise.wire._tensors import InferTensor, from_message, from_typed, to_message

__all__ = [
    "METHODS",
    "Parameter",
    "infer_request",
    "infer_response",
    "read_parameters",
    "read_request",
    "read_response",
    "write_parameters",
]

Parameter = bool | int | float | str

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


def infer_request(
    model: str, tensors: Mapping[str, npt.NDArray[Any]], outputs: Iterable[str] | None = None
) -> protocol.ModelInferRequest:
    """A request with raw contents.

    Raises:
        InputError: A tensor has no counterpart in the protocol.
    """
    message = protocol.ModelInferRequest(model_name=model)
    _fill(message.inputs, message.raw_input_contents, tensors)
    for name in outputs or ():
        message.outputs.add(name=name)
    return message


def infer_response(model: str, request_id: str, tensors: Mapping[str, npt.NDArray[Any]]) -> protocol.ModelInferResponse:
    """An answer with raw contents.

    Raises:
        InputError: A tensor has no counterpart in the protocol.
    """
    message = protocol.ModelInferResponse(model_name=model, model_version="1", id=request_id)
    _fill(message.outputs, message.raw_output_contents, tensors)
    return message


def _fill(heads: Any, raws: Any, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, array in tensors.items():
        tensor = to_message(name, array)
        heads.add(name=name, datatype=tensor.dtype, shape=tensor.shape)
        raws.append(tensor.raw)


def read_request(message: protocol.ModelInferRequest) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a request, from raw or typed contents.

    Raises:
        InputError: A name comes twice, contents are missing or do not fit datatype and shape.
    """
    return _read(message.inputs, message.raw_input_contents)


def read_response(message: protocol.ModelInferResponse) -> dict[str, npt.NDArray[Any]]:
    """The tensors of an answer, from raw or typed contents.

    Raises:
        InputError: As `read_request`.
    """
    return _read(message.outputs, message.raw_output_contents)


def _read(heads: Any, raws: Sequence[bytes]) -> dict[str, npt.NDArray[Any]]:
    if len(raws) not in (0, len(heads)):
        raise InputError(f"raw contents must be given for all {len(heads)} tensors or none", got=len(raws))
    tensors: dict[str, npt.NDArray[Any]] = {}
    for i, head in enumerate(heads):
        if head.name in tensors:
            raise InputError("a tensor must be given once", where=head.name)
        if raws:
            tensors[head.name] = from_message(InferTensor(head.name, head.datatype, tuple(head.shape), raws[i]))
        elif "shared_memory_region" in head.parameters:
            raise InputError("contents must be in the message: shared memory is not offered", where=head.name)
        else:
            tensors[head.name] = from_typed(head.name, head.datatype, head.shape, head.contents)
    return tensors
