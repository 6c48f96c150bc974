"""The REST form of requests and answers, against the protocol's text and against random tensors."""

import json

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwise._errors import InputError
from tierwise.wire import RestForm, infer_response, rest_request, rest_response

NUMBERS = [np.bool_, *(np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)), "<f2", "<f4", "<f8"]
ARRAYS = st.sampled_from([np.dtype(kind) for kind in NUMBERS]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements=hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False),
    )
)


def tensor(**changes):
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2.5]} | changes


def ask(*inputs, **others):
    return rest_request("m", "", json.dumps({"inputs": inputs, **others}).encode(), None)


@settings(max_examples=150, deadline=None)
@given(arrays=st.lists(ARRAYS, min_size=1, max_size=3), binary=st.lists(st.booleans(), min_size=3, max_size=3))
def test_an_answer_sent_back_as_a_request_holds_the_same_tensors(arrays, binary):
    tensors = {f"t{i}": array for i, array in enumerate(arrays)}
    form = RestForm(each={f"t{i}": flag for i, flag in enumerate(binary)})
    body, json_bytes = rest_response(infer_response("m", "7", tensors), form)
    answer = json.loads(body[:json_bytes])
    assert (answer["model_name"], answer["id"]) == ("m", "7")
    asked = json.dumps({"inputs": answer["outputs"]}).encode()
    request, _ = rest_request("m", "", asked + body[len(body) if json_bytes is None else json_bytes :], len(asked))
    for name, array in request.tensors().items():
        np.testing.assert_array_equal(array, tensors[name], strict=True)


def test_text_goes_as_json_and_bytes_as_binary():
    texts = np.array([["a", "ß"], ["", "c"]], dtype=object)
    request, _ = ask({"name": "x", "datatype": "BYTES", "shape": [2, 2], "data": texts.tolist()})
    assert request.tensors()["x"].tolist() == [[b"a", "ß".encode()], [b"", b"c"]]
    answer = infer_response("m", "", {"y": np.array([b"\xff\x00"], dtype=object)})
    body, json_bytes = rest_response(answer, RestForm(binary=True))
    assert body[json_bytes:] == b"\x02\x00\x00\x00\xff\x00"
    with pytest.raises(InputError, match="must be text"):
        rest_response(answer, RestForm())


def test_parameters_versions_and_outputs_reach_the_request():
    request, form = ask(
        tensor(parameters={"content_type": "np"}),
        id="42",
        parameters={"priority": 3, "binary_data_output": True, "share": 0.5, "who": "me"},
        outputs=[{"name": "y", "parameters": {"binary_data": False}}],
    )
    message = request.message
    assert (message.id, message.parameters["priority"].int64_param, message.parameters["share"].double_param) == (
        "42",
        3,
        0.5,
    )
    assert "binary_data_output" not in message.parameters
    assert message.inputs[0].parameters["content_type"].string_param == "np"
    assert [output.name for output in message.outputs] == ["y"]
    assert form == RestForm(binary=True, each={"y": False})


@pytest.mark.parametrize(
    ("changes", "must"),
    [
        ({"data": [1]}, "must hold 2 values"),
        ({"data": [[[1]], [[2], [3]]]}, "must hold 2 values"),
        ({"data": 5}, "must be a list"),
        ({"data": ["a", "b"]}, "must be values of FP32"),
        ({"data": [None, 1]}, "must be values of FP32"),
        ({"data": [1e60, 1]}, "must fit FP32"),
        ({"datatype": "INT8", "data": [1.5, 2]}, "must be values of INT8"),
        ({"datatype": "INT8", "data": [300, 2]}, "must fit INT8"),
        ({"datatype": "UINT8", "data": [-1, 2]}, "must fit UINT8"),
        ({"datatype": "INT32", "data": [True, False]}, "must be values of INT32"),
        ({"datatype": "BOOL", "data": [0, 1]}, "must be values of BOOL"),
        ({"datatype": "BYTES", "data": [0, 1]}, "must be values of BYTES"),
        ({"datatype": "FP8"}, "datatype must be one of"),
        ({"shape": [-2]}, "inference request"),
        ({"shape": [2**70]}, "inference request"),
        ({"shape": [1] * 40}, "at most 32 axes"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not offered"),
        ({"parameters": {"binary_data_size": 8}}, "with 0 bytes left"),
        ({"parameters": {"binary_data_size": True}}, "binary_data_size must be"),
        ({"parameters": {"x": [1]}}, "a flag, a number or a text"),
        ({"parameters": {"x": 2**64}}, "a flag, a number or a text"),
    ],
)
def test_a_wrong_tensor_gets_one_clear_error(changes, must):
    with pytest.raises(InputError, match=must):
        ask(tensor(**changes))


@pytest.mark.parametrize(
    ("body", "json_bytes"),
    [
        (b"", None),
        (b"{}", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 5000 + b"]" * 5000 + b"}]}", None),
        (b'{"inputs":[{"name":"\\ud800","datatype":"FP32","shape":[1],"data":[1]}]}', None),
        (b'{"inputs":[]} more', 13),
        (b'{"inputs":[]}', 99),
        (b'{"inputs":[]}', -1),
        (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":1}}]}', None),
        (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}', None),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}', None),
        (b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["\xb8"]}]}', None),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[["\xb8"]]}]}', None),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1e999]}]}', None),
    ],
)
def test_a_wrong_body_gets_one_clear_error(body, json_bytes):
    with pytest.raises(InputError):
        rest_request("m", "", body, json_bytes)


def test_what_json_cannot_hold_must_be_asked_for_as_binary():
    with pytest.raises(InputError, match="finite") as caught:
        rest_response(infer_response("m", "", {"y": np.array([np.nan], np.float32)}), RestForm())
    assert "binary_data" in str(caught.value)
