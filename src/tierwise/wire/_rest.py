"""Requests and answers of the protocol in their REST form, to and from the form that gRPC has them in.

A body is JSON; with the binary tensor data extension, contents of tensors follow it in the order of their heads, and
the header ``Inference-Header-Content-Length`` says where the JSON ends.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, final

import msgspec
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.wire._frames import Buffer
from tierwise.wire._limits import UNLIMITED, TensorLimits
from tierwise.wire._messages import Framed, Parameter, read_parameters, write_parameters
from tierwise.wire._rest_tensors import from_json, to_json
from tierwise.wire._stubs import open_inference_pb2 as protocol
from tierwise.wire._tensors import InferTensor, from_message, to_message

__all__ = ["RestForm", "rest_answer", "rest_request", "rest_response"]

_Axis = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_INT64 = range(-(2**63), 2**63)


class _Head(msgspec.Struct):
    name: str
    datatype: str
    shape: list[_Axis]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Asked(msgspec.Struct):
    inputs: list[_Head]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Wanted] = []


_ASKED = msgspec.json.Decoder(_Asked)

# JSON of more than this is not remembered: what strangers send shall take no memory of note.
_SMALL_BYTES: Final = 1024


@final
@dataclass(frozen=True)
class RestForm:
    """How a client wants its answer written.

    Attributes:
        binary: Whether outputs come as binary where nothing else is said.
        each: The same for single outputs by name.
    """

    binary: bool = False
    each: Mapping[str, bool] = field(default_factory=dict)


def rest_request(
    model: str, version: str, body: bytes, json_bytes: int | None, limits: TensorLimits = UNLIMITED
) -> tuple[Framed, RestForm]:
    """A request from its body.

    Args:
        model: Name of the model, from the path.
        version: Its version from the path, or empty.
        body: JSON, and binary contents behind it.
        json_bytes: Length of the JSON (``Inference-Header-Content-Length``); None: all of the body.
        limits: How large its tensors may be.

    Returns:
        The request as gRPC would have brought it, and how the answer shall be written.

    Raises:
        InputError: The body is not such a request; the message says where.
    """
    end = len(body) if json_bytes is None else json_bytes
    if not 0 <= end <= len(body):
        raise InputError(
            "Inference-Header-Content-Length must be the length of the JSON in the body",
            got=f"{json_bytes} for a body of {len(body)} bytes",
        )
    if json_bytes is None or end > _SMALL_BYTES:
        told = _told(model, version, memoryview(body)[:end], limits)
    else:
        told = _told_before(model, version, body[:end], limits)
    return Framed(told.message(), _contents(told, memoryview(body)[end:], limits), limits), told.form


@final
@dataclass(frozen=True)
class _Told:
    """What the JSON of a request tells: all but the contents behind it.

    Attributes:
        encoded: The request as a message of gRPC.
        form: How the answer shall be written.
        heads: Of its tensors.
        sizes: Bytes of each behind the JSON; None where it is not there.
    """

    encoded: bytes
    form: RestForm
    heads: tuple[_Head, ...]
    sizes: tuple[Any, ...]

    def message(self) -> Any:
        """The request, the caller's own."""
        return protocol.ModelInferRequest.FromString(self.encoded)


def _told(model: str, version: str, text: bytes | memoryview, limits: TensorLimits) -> _Told:
    try:
        asked = _ASKED.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body must be JSON of an inference request ({error})") from error
    limits.check_count(max(len(asked.inputs), len(asked.outputs)))
    message = protocol.ModelInferRequest(model_name=model, model_version=version)
    message.id = _text(asked.id)
    form = _form(asked)
    _write(message.parameters, {k: v for k, v in asked.parameters.items() if k != "binary_data_output"}, "parameters")
    for wanted in asked.outputs:
        output = message.outputs.add(name=_text(wanted.name))
        _write(output.parameters, {k: v for k, v in wanted.parameters.items() if k != "binary_data"}, wanted.name)
    sizes = []
    for head in asked.inputs:
        entry = message.inputs.add(name=_text(head.name), datatype=_text(head.datatype), shape=head.shape)
        sizes.append(head.parameters.pop("binary_data_size", None))
        _write(entry.parameters, head.parameters, head.name)
    return _Told(message.SerializeToString(), form, tuple(asked.inputs), tuple(sizes))


# Who sends binary contents tells the same of them in request after request.
_told_before = functools.lru_cache(maxsize=128)(_told)


def _contents(told: _Told, behind: memoryview, limits: TensorLimits) -> tuple[Buffer, ...]:
    contents: list[Buffer] = []
    at = 0
    for head, size in zip(told.heads, told.sizes, strict=True):
        if size is None:
            contents.append(_from_data(head, limits))
            continue
        left = len(behind) - at
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= left:
            raise InputError(
                "binary_data_size must be the bytes of the tensor that follow the JSON",
                got=f"{size!r} with {left} bytes left",
                where=head.name,
            )
        if head.data is not msgspec.UNSET:
            raise InputError("a tensor must come as data or as binary, not as both", where=head.name)
        contents.append(behind[at : at + size])
        at += size
    if at != len(behind):
        raise InputError("all bytes behind the JSON must belong to a tensor", got=f"{len(behind) - at} more")
    return tuple(contents)


def _from_data(head: _Head, limits: TensorLimits) -> Buffer:
    if "shared_memory_region" in head.parameters:
        raise InputError("contents must be in the request: shared memory is not offered", where=head.name)
    if isinstance(head.data, msgspec.UnsetType):
        raise InputError("a tensor must have data, or binary_data_size among its parameters", where=head.name)
    limits.check_tensor(head.name, head.datatype, head.shape, listed=True)
    limits.check_json(head.name, head.data)
    return to_message(head.name, from_json(head.name, head.datatype, head.shape, head.data)).raw


def _form(asked: _Asked) -> RestForm:
    each = {}
    for wanted in asked.outputs:
        if "classification" in wanted.parameters:
            raise InputError("outputs must be asked for as tensors: classification is not offered", where=wanted.name)
        if "binary_data" in wanted.parameters:
            each[wanted.name] = _flag(wanted.parameters["binary_data"], f"binary_data of {wanted.name}")
    return RestForm(_flag(asked.parameters.get("binary_data_output", False), "binary_data_output"), each)


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError("the parameter must be true or false", got=repr(value)[:80], where=where)
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError("names must be valid Unicode") from error
    return value


def _write(target: Any, parameters: Mapping[str, Any], where: str) -> None:
    for key, value in parameters.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, Parameter) or (whole and value not in _INT64):
            raise InputError(f"parameter {key!r} must be a flag, a number or a text", got=repr(value)[:80], where=where)
        _text(key)
        if isinstance(value, str):
            _text(value)
    write_parameters(target, parameters)


def rest_response(answer: Framed, form: RestForm) -> tuple[bytes, int | None]:
    """An answer's body.

    Args:
        answer: As a node gives it.
        form: As the client asked for it.

    Returns:
        The body, and the length of the JSON in it where binary contents follow (for the header), else None.

    Raises:
        InputError: An output is to be JSON and cannot be (`tierwise.wire` says which).
    """
    message = answer.message
    tensors = [
        InferTensor(output.name, output.datatype, tuple(output.shape), raw)
        for output, raw in zip(message.outputs, answer.contents, strict=True)
    ]
    told = read_parameters(message.parameters)
    return _body(message.model_name, message.model_version, message.id, told, tensors, form)


def rest_answer(
    model: str,
    version: str,
    request_id: str,
    outputs: Mapping[str, npt.NDArray[Any]],
    parameters: Mapping[str, Parameter],
    form: RestForm,
) -> tuple[bytes, int | None]:
    """As `rest_response`, from what the answer is made of.

    Raises:
        InputError: An output has no counterpart in the protocol, or is to be JSON and cannot be.
    """
    tensors = [to_message(name, array) for name, array in outputs.items()]
    return _body(model, version, request_id, parameters, tensors, form)


def _body(
    model: str,
    version: str,
    request_id: str,
    parameters: Mapping[str, Parameter],
    tensors: Iterable[InferTensor],
    form: RestForm,
) -> tuple[bytes, int | None]:
    heads: list[dict[str, Any]] = []
    behind: list[Buffer] = []
    for tensor in tensors:
        head: dict[str, Any] = {"name": tensor.name, "datatype": tensor.dtype, "shape": tensor.shape}
        if form.each.get(tensor.name, form.binary):
            head["parameters"] = {"binary_data_size": len(tensor.raw)}
            behind.append(tensor.raw)
        else:
            head["data"] = to_json(tensor.name, from_message(tensor))
        heads.append(head)
    content: dict[str, Any] = {"model_name": model, "model_version": version}
    if request_id:
        content["id"] = request_id
    if parameters:
        content["parameters"] = dict(parameters)
    content["outputs"] = heads
    text = msgspec.json.encode(content)
    return (b"".join((text, *behind)), len(text)) if behind else (text, None)
