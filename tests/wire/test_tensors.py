import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tierwise._errors import InputError
from tierwise.wire import (
    InferTensor,
    from_message,
    from_typed,
    infer_request,
    protocol,
    read_parameters,
    to_message,
    write_parameters,
)

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_numbers_come_back_bit_by_bit(array: npt.NDArray[Any]) -> None:
    back = from_message(to_message("x", array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=20)))
def test_bytes_come_back(array: npt.NDArray[Any]) -> None:
    back = from_message(to_message("x", array))
    assert back.dtype == object
    assert back.shape == array.shape
    assert back.ravel().tolist() == array.ravel().tolist()


@given(st.binary(max_size=64), st.lists(st.integers(-2, 4), max_size=3), st.sampled_from(["BYTES", "FP32", "BF16", ""]))
def test_junk_is_an_input_error_or_an_array(raw: bytes, shape: list[int], dtype: str) -> None:
    try:
        array = from_message(InferTensor("x", dtype, tuple(shape), raw))
    except InputError:
        return
    assert array.shape == tuple(shape)


def test_the_bytes_on_the_wire_are_frozen() -> None:
    assert to_message("x", np.array([1, -2], dtype=np.int64)) == InferTensor(
        "x", "INT64", (2,), bytes.fromhex("0100000000000000feffffffffffffff")
    )
    text = np.array([[b"ab", "ü"]], dtype=object)
    assert to_message("t", text).raw == b"\2\0\0\0ab\2\0\0\0\xc3\xbc"
    request = infer_request("m", {"x": np.array([1.5], dtype=np.float32)}, ["y"])
    assert request.encode().hex() == "0a016d2a0c0a01781204465033321a010132030a01793a040000c03f"


def test_other_byte_orders_and_strides_are_sent_as_the_protocol_wants() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(from_message(to_message("x", array)), array)


TYPED = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-128, 127]),
    ("INT16", "int_contents", [-5, 5]),
    ("INT32", "int_contents", [-5, 5]),
    ("INT64", "int64_contents", [-(2**40), 5]),
    ("UINT8", "uint_contents", [0, 255]),
    ("UINT16", "uint_contents", [0, 65535]),
    ("UINT32", "uint_contents", [0, 2**32 - 1]),
    ("UINT64", "uint64_contents", [0, 2**64 - 1]),
    ("FP32", "fp32_contents", [0.5, -1.5]),
    ("FP64", "fp64_contents", [0.1, 1e300]),
    ("BYTES", "bytes_contents", [b"a", b""]),
]


@pytest.mark.parametrize(("dtype", "field", "values"), TYPED)
def test_typed_contents_are_read(dtype: str, field: str, values: list[Any]) -> None:
    contents = protocol.InferTensorContents(**{field: values})
    array = from_typed("x", dtype, [1, 2], contents)
    assert array.shape == (1, 2)
    assert array.ravel().tolist() == values
    # What was typed can be sent raw as the same type.
    assert to_message("x", array).dtype == dtype


def raw(dtype: str, shape: tuple[int, ...], content: bytes) -> InferTensor:
    return InferTensor("x", dtype, shape, content)


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (raw("FP32", (2,), b"123"), r"x: FP32 \[2\] must come as 8 bytes, but got 3 bytes"),
        (raw("FP32", (-1,), b""), r"x: a shape must have .* none negative, but got \[-1\]"),
        (raw("BF16", (1,), b"12"), r"x: the datatype must be one of BOOL, .*BYTES, but got 'BF16'"),
        (raw("BYTES", (2,), b"\1\0\0\0a"), r"x: BYTES \[2\] must hold 2 elements, but got 1"),
        (raw("BYTES", (1,), struct.pack("<I", 2**31) + b"a"), r"ends beyond the 5 bytes"),
        (raw("BYTES", (1,), b"\1\0"), r"ends beyond the 2 bytes"),
    ],
)
def test_wrong_tensors_are_named(tensor: InferTensor, text: str) -> None:
    with pytest.raises(InputError, match=text):
        from_message(tensor)


def test_wrong_arrays_are_named() -> None:
    with pytest.raises(InputError, match=r"x: elements must be one of .* but got complex128"):
        to_message("x", np.zeros(1, dtype=complex))
    with pytest.raises(InputError, match=r"x: elements of an object array must be bytes, but got int"):
        to_message("x", np.array([1], dtype=object))
    with pytest.raises(InputError, match=r"values must fit INT8 .*300"):
        from_typed("x", "INT8", [1], protocol.InferTensorContents(int_contents=[300]))
    with pytest.raises(InputError, match=r"must hold 2 values in fp32_contents, but got 1"):
        from_typed("x", "FP32", [2], protocol.InferTensorContents(fp32_contents=[1]))
    with pytest.raises(InputError, match=r"FP16 must come as raw contents"):
        from_typed("x", "FP16", [0], protocol.InferTensorContents())


def test_wrong_requests_are_named() -> None:
    array = np.zeros(1, dtype=np.float32)
    request = infer_request("m", {"a": array, "b": array})
    request.contents = request.contents[:1]
    with pytest.raises(InputError, match="for all 2 tensors or none, but got 1"):
        request.tensors()
    request = infer_request("m", {"a": array, "b": array})
    request.message.inputs[1].name = "a"
    with pytest.raises(InputError, match="a: a tensor must be given once"):
        request.tensors()
    request = infer_request("m", {"a": array})
    request.contents = ()
    request.message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(InputError, match="shared memory is not offered"):
        request.tensors()


def test_parameters_keep_their_types() -> None:
    given = {"b": True, "i": -(2**40), "f": 0.25, "s": "text"}
    request = infer_request("m", {})
    write_parameters(request.message.parameters, given)
    request.message.parameters["empty"].SetInParent()
    assert read_parameters(request.message.parameters) == given
    assert isinstance(read_parameters(request.message.parameters)["b"], bool)


@pytest.mark.parametrize("dtype", ["FP32", "BYTES"])
def test_a_shape_that_no_memory_could_have_is_refused_where_nothing_is_in_it(dtype: str) -> None:
    assert from_message(InferTensor("x", dtype, (0, 1 << 40), b"")).shape == (0, 1 << 40)
    with pytest.raises(InputError, match="x: a shape must be of at most"):
        from_message(InferTensor("x", dtype, (0, 2**63 - 1, 2**63 - 1), b""))
