"""NumPy arrays to tensors of the Open Inference Protocol and back.

Raw contents are little-endian elements in row-major order; an element of BYTES is its length as four bytes and then
itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.wire._frames import Buffer

__all__ = ["DTYPES", "InferTensor", "dtype_name", "element_count", "from_message", "from_typed", "to_message"]

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_MOST_ELEMENTS: Final = 1 << 48
_LENGTH: Final = struct.Struct("<I")

_TYPED_FIELDS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@final
@dataclass(frozen=True)
class InferTensor:
    """One tensor as it travels.

    Attributes:
        name: Name of the model's input or output.
        dtype: The protocol's name: ``FP32``, ``UINT8``, ``BYTES``, ...
        shape: Axes, all known.
        raw: Elements, see the module's text; a view where they lie in other memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: Buffer


def dtype_name(array: npt.NDArray[Any], name: str = "tensor") -> str:
    """The protocol's name for an array's elements; object arrays are ``BYTES``.

    Raises:
        InputError: The protocol has no such type (strings must come as object arrays of bytes).
    """
    if array.dtype == object:
        return "BYTES"
    datatype = _NAMES.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise InputError(
            f"elements must be one of {', '.join(DTYPES)} or bytes in an object array",
            got=str(array.dtype),
            where=name,
        )
    return datatype


def to_message(name: str, array: npt.NDArray[Any]) -> InferTensor:
    """An array as it travels, sharing its memory where it lies in order; elements of an object array are bytes or text.

    Raises:
        InputError: The elements have no counterpart in the protocol.
    """
    datatype = dtype_name(array, name)
    if datatype == "BYTES":
        return InferTensor(name, datatype, array.shape, _pack(array, name))
    elements = np.ascontiguousarray(array, dtype=DTYPES[datatype]).reshape(-1)
    return InferTensor(name, datatype, array.shape, elements.view(np.uint8).data)


def _pack(array: npt.NDArray[Any], name: str) -> bytes:
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        encoded = element.encode() if isinstance(element, str) else element
        if not isinstance(encoded, bytes):
            raise InputError("elements of an object array must be bytes", got=type(element).__name__, where=name)
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def from_message(tensor: InferTensor) -> npt.NDArray[Any]:
    """The array that `to_message` took; it may share memory with ``tensor.raw`` and is then read-only.

    Raises:
        InputError: An unknown datatype, a negative axis, or contents that do not fill the shape exactly.
    """
    count = element_count(tensor.name, tensor.shape)
    if tensor.dtype == "BYTES":
        return _object_array(_unpack(tensor, count), tensor.shape)
    dtype = _dtype(tensor.name, tensor.dtype)
    if len(tensor.raw) != count * dtype.itemsize:
        raise InputError(
            f"{tensor.dtype} {list(tensor.shape)} must come as {count * dtype.itemsize} bytes",
            got=f"{len(tensor.raw)} bytes",
            where=tensor.name,
        )
    array = np.frombuffer(tensor.raw, dtype=dtype).reshape(tensor.shape)
    # Inside a message elements may begin at any byte; what computes with them wants them where its loads want them.
    return array if array.flags.aligned else array.copy()


def _unpack(tensor: InferTensor, count: int) -> list[bytes]:
    raw, at, elements = tensor.raw, 0, []
    while at < len(raw):
        start = at + _LENGTH.size
        if start > len(raw) or (end := start + _LENGTH.unpack_from(raw, at)[0]) > len(raw):
            raise InputError(
                "every BYTES element must be its length in 4 bytes and then itself",
                got=f"an element that ends beyond the {len(raw)} bytes received",
                where=tensor.name,
            )
        elements.append(bytes(raw[start:end]))
        at = end
        if len(elements) > count:  # there may be a great many more
            break
    if len(elements) != count:
        got = len(elements) if len(elements) < count else "more"
        raise InputError(f"BYTES {list(tensor.shape)} must hold {count} elements", got=got, where=tensor.name)
    return elements


def from_typed(name: str, datatype: str, shape: Sequence[int], contents: Any) -> npt.NDArray[Any]:
    """The array in typed contents (an ``InferTensorContents`` message), as some clients send them.

    Raises:
        InputError: As `from_message`, or a value does not fit the datatype.
    """
    count = element_count(name, shape)
    field = _TYPED_FIELDS.get(datatype)
    if field is None:
        _dtype(name, datatype)
        raise InputError(f"{datatype} must come as raw contents", where=name)
    values = getattr(contents, field)
    if len(values) != count:
        raise InputError(f"{datatype} {list(shape)} must hold {count} values in {field}", got=len(values), where=name)
    if datatype == "BYTES":
        return _object_array(list(values), shape)
    try:
        return np.array(values, dtype=DTYPES[datatype]).reshape(tuple(shape))
    except OverflowError as error:
        raise InputError(f"values must fit {datatype} ({error})", where=name) from error


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in DTYPES:
        raise InputError(f"the datatype must be one of {', '.join(DTYPES)}, BYTES", got=repr(datatype), where=name)
    return DTYPES[datatype]


def element_count(name: str, shape: Sequence[int]) -> int:
    if len(shape) > 32 or any(axis < 0 for axis in shape):
        raise InputError("a shape must have at most 32 axes, none negative", got=list(shape)[:40], where=name)
    # Nothing is in an array with an axis of 0, but the others must still be ones that memory could have.
    if math.prod(max(1, axis) for axis in shape) > _MOST_ELEMENTS:
        raise InputError(f"a shape must be of at most {_MOST_ELEMENTS:,} elements", got=list(shape), where=name)
    return math.prod(shape)


def _object_array(elements: list[bytes], shape: Sequence[int]) -> npt.NDArray[Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(tuple(shape))
