"""Tensors in the protocol's REST form: data as JSON, or as binary behind it (the binary tensor data extension)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.wire._tensors import DTYPES, element_count

__all__ = ["from_json", "to_json"]

_DEEPEST: Final = 32

_VALUES: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "b": msgspec.json.Decoder(list[bool]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "f": msgspec.json.Decoder(list[float]),
    "S": msgspec.json.Decoder(list[str]),
}
_ANYTHING: Final = msgspec.json.Decoder()


def from_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> npt.NDArray[Any]:
    """The array in a tensor's ``data``, in row-major order; lists may be flat or nested.

    Args:
        name: Name of the tensor, for errors.
        datatype: The protocol's name.
        shape: Axes.
        data: JSON text of a list. ``BYTES`` are strings, sent on as UTF-8; those that are not text must come binary.

    Raises:
        InputError: An unknown datatype, a value that is not of it, or more or fewer values than the shape holds.
    """
    count = element_count(name, shape)
    text = datatype == "BYTES"
    if not text and datatype not in DTYPES:
        raise InputError(f"the datatype must be one of {', '.join(DTYPES)}, BYTES", got=repr(datatype), where=name)
    values = _values("S" if text else DTYPES[datatype].kind, datatype, name, data)
    if len(values) != count:
        raise InputError(f"{datatype} {list(shape)} must hold {count} values", got=len(values), where=name)
    if text:
        array = np.empty(count, dtype=object)
        array[:] = [_encoded(value, name) for value in values]
        return array.reshape(tuple(shape))
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype=DTYPES[datatype]).reshape(tuple(shape))
    except (OverflowError, FloatingPointError) as error:
        raise InputError(f"values must fit {datatype} ({error})", where=name) from error


def _values(kind: str, datatype: str, name: str, data: msgspec.Raw) -> list[Any]:
    try:
        flat: list[Any] = _VALUES[kind].decode(data)
    except msgspec.ValidationError:
        pass
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error) from error
    else:
        return flat
    # Nested lists are rarer, and a wrong value is found here again.
    try:
        content = _ANYTHING.decode(data)
    except msgspec.ValidationError as error:  # a number that no float can hold
        raise InputError(f"data must be values of {datatype} ({error})", where=name) from error
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error) from error
    except RecursionError:
        raise InputError(f"lists must be nested at most {_DEEPEST} deep", where=name) from None
    if not isinstance(content, list):
        raise InputError("data must be a list", got=type(content).__name__, where=name)
    try:
        nested: list[Any] = msgspec.convert(list(_flat(content, name, 0)), _VALUES[kind].type)
    except msgspec.ValidationError as error:
        raise InputError(f"data must be values of {datatype} ({error})", where=name) from error
    return nested


def _not_utf8(name: str, error: UnicodeDecodeError) -> InputError:
    return InputError(f"data must be UTF-8 ({error})", where=name)


def _flat(content: list[Any], name: str, depth: int) -> Iterator[Any]:
    if depth > _DEEPEST:
        raise InputError(f"lists must be nested at most {_DEEPEST} deep", where=name)
    for value in content:
        if isinstance(value, list):
            yield from _flat(value, name, depth + 1)
        else:
            yield value


def _encoded(value: str, name: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InputError("strings must be valid Unicode", where=name) from error


def to_json(name: str, array: npt.NDArray[Any]) -> list[Any]:
    """The values of an array as JSON holds them, flat.

    Raises:
        InputError: A value that JSON has no form for (not finite, or bytes that are not UTF-8): it must be asked for
            as binary.
    """
    fix = 'Ask for this output with the parameter "binary_data": true'
    if array.dtype == object:
        try:
            return [element.decode() for element in array.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise InputError("an answer as JSON must be text", got="other bytes", where=name, fix=fix) from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("an answer as JSON must be finite numbers", got="nan or inf", where=name, fix=fix)
    values: list[Any] = array.ravel().tolist()
    return values
