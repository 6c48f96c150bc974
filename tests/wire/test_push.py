import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise._errors import InputError
from tierwise.wire import Push, decode_push, protocol

FILES = st.dictionaries(st.text(max_size=12), st.binary(max_size=300), max_size=4)


@given(FILES, st.none() | st.text(min_size=1, max_size=20).map(str.encode))
def test_a_push_is_what_the_library_would_have_written(files: dict[str, bytes], config: bytes | None) -> None:
    push = Push("m", config, files)
    message = protocol.RepositoryModelLoadRequest.FromString(push.encode())
    assert message.model_name == "m"
    contents = {k: p.bytes_param for k, p in message.parameters.items() if k != "config"}
    assert contents == {f"file:1/{name}": content for name, content in files.items()}
    for whole in (push.encode(), message.SerializeToString()):
        back = decode_push(whole)
        assert (back.model, back.config) == ("m", config)
        assert {name: bytes(content) for name, content in back.files.items()} == files


@given(st.binary(max_size=100))
def test_junk_is_an_input_error_or_a_push(junk: bytes) -> None:
    try:
        decode_push(junk)
    except InputError:
        return


def test_other_parameters_are_named() -> None:
    request = protocol.RepositoryModelLoadRequest(model_name="m")
    request.parameters["file:2/model.onnx"].bytes_param = b"x"
    with pytest.raises(InputError, match=r"'config' or 'file:1/NAME', but got 'file:2/model\.onnx'"):
        decode_push(request.SerializeToString())
    request = protocol.RepositoryModelLoadRequest()
    request.parameters["config"].bytes_param = b"{}"
    assert decode_push(request.SerializeToString()).config == b"{}"
