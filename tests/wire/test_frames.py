from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise._errors import InputError
from tierwise.wire import decode_request, decode_response, infer_request, infer_response, message_fields, protocol
from tierwise.wire._frames import join_contents, split_contents

CONTENTS = st.lists(st.binary(max_size=300), max_size=4)


@given(CONTENTS, st.text(max_size=20), st.binary(max_size=20))
def test_what_is_joined_is_what_the_library_would_have_written(contents: list[bytes], name: str, more: bytes) -> None:
    whole = protocol.ModelInferRequest(model_name=name, raw_input_contents=contents)
    whole.parameters["p"].bool_param = True
    head = protocol.ModelInferRequest(model_name=name)
    later = protocol.ModelInferRequest(parameters={"p": protocol.InferParameter(bool_param=True)})
    joined = join_contents(head.SerializeToString(), 7, contents, later.SerializeToString())
    assert protocol.ModelInferRequest.FromString(joined) == whole
    message, views = split_contents(joined, 7)
    assert [bytes(view) for view in views] == contents
    assert protocol.ModelInferRequest.FromString(message).model_name == name


@given(st.binary(max_size=200))
def test_junk_is_an_input_error_or_a_message(junk: bytes) -> None:
    for decode in (decode_request, decode_response):
        try:
            decode(junk).tensors()
        except InputError:
            continue


@given(st.binary(max_size=80))
def test_junk_is_refused_where_the_library_refuses_it_and_read_alike_where_not(junk: bytes) -> None:
    try:
        wanted = protocol.ModelInferRequest.FromString(junk)
    except Exception:
        return
    try:
        request = decode_request(junk)
    except InputError:
        # Groups are the one part of the format that is not read here: the protocol has none.
        return
    assert [bytes(view) for view in request.contents] == list(wanted.raw_input_contents)
    assert request.message.model_name == wanted.model_name


@pytest.mark.parametrize("array", [np.arange(7, dtype=np.float32), np.zeros((0, 3), np.int64), np.float64(2.5)])
def test_contents_are_read_in_place_and_aligned(array: Any) -> None:
    given_array = np.asarray(array)
    for padding in range(9):
        request = infer_request("m" * padding, {"x": given_array})
        back = decode_request(request.encode()).tensors()["x"]
        np.testing.assert_array_equal(back, given_array)
        assert back.shape == given_array.shape
        assert back.flags.aligned
    answer = decode_response(infer_response("m", "7", {"x": given_array}).encode())
    assert answer.message.id == "7"
    np.testing.assert_array_equal(answer.tensors()["x"], given_array)


def test_cut_off_messages_are_refused() -> None:
    whole = infer_request("m", {"x": np.arange(3, dtype=np.int64)}).encode()
    borders = {field.end for field in message_fields(whole, 0, len(whole))}
    for end in range(1, len(whole)):
        if end not in borders:
            with pytest.raises(InputError, match="must be a message of the protocol"):
                list(message_fields(whole, 0, end))
