"""The REST front as others see it: tritonclient, plain HTTP, tests made from its own description, and rude clients."""

import contextlib
import http.client
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
import tritonclient.http as triton
from hypothesis import HealthCheck, settings
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tritonclient.utils import InferenceServerException

from tierwise.artifact import PAYLOAD_INPUT, Artifact, read_files
from tierwise.runtime import PROBE, _http_server
from tierwise.runtime._openapi import openapi
from tierwise.wire import InferenceClient

Start = Callable[..., Any]
SCHEMA = schemathesis.openapi.from_dict(openapi())


@pytest.fixture(scope="module")
def node(start_node: Start, chain: Artifact, picture_model: Artifact) -> Any:
    node = start_node("edge", "--rest", "127.0.0.1:0")
    with InferenceClient(node.unix) as client:
        client.load("chain", files=read_files(chain))
        client.load("pictures", files=read_files(picture_model))
    return node


@pytest.fixture
def client(node: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(node.rest.removeprefix("http://")) as client:
        yield client


def ask(node: Any, verb: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], Any]:
    host = http.client.HTTPConnection(node.rest.removeprefix("http://"), timeout=30)
    try:
        host.request(verb, path, body, headers)
        answer = host.getresponse()
        content = answer.read()
        parsed = json.loads(content) if answer.headers["content-type"] == "application/json" else content
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, parsed
    finally:
        host.close()


def given(inputs: dict[str, Any], binary: bool) -> list[Any]:
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "FP32")
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    return tensors


def test_another_client_loads_asks_counts_and_unloads(client: Any, chain: Artifact, inputs: dict[str, Any]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "tierwise"
    assert not client.is_model_ready("again")
    files = {f"file:1/{name}": content for name, content in read_files(chain).items()}
    client.load_model("again", config=json.dumps({"segments": [0, 3]}), files=files)
    assert client.is_model_ready("again", "1")
    listed = {(model["name"], model["state"]) for model in client.get_model_repository_index()}
    assert {(PROBE, "READY"), ("again", "READY")} <= listed
    metadata = client.get_model_metadata("again")
    assert [(t["name"], t["datatype"], t["shape"]) for t in metadata["inputs"]] == [
        ("x", "FP32", [-1, 4]),
        ("bias", "FP32", [-1, 3]),
    ]
    client.infer("again", given(inputs, binary=True))
    counted = client.get_inference_statistics("again")["model_stats"][0]
    assert counted["inference_count"] == len(inputs["x"])
    assert counted["inference_stats"]["success"]["count"] == 1
    client.unload_model("again")
    with pytest.raises(InferenceServerException, match="must be one of"):
        client.infer("again", given(inputs, binary=True))


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_answers_are_those_of_the_model_in_json_and_binary(
    client: Any,
    chain: Artifact,
    inputs: dict[str, Any],
    directly: Callable[..., Any],
    binary_in: bool,
    binary_out: bool,
) -> None:
    wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    answer = client.infer("chain", given(inputs, binary_in), outputs=wanted, request_id="7")
    np.testing.assert_allclose(answer.as_numpy("y"), directly(chain, inputs), rtol=1e-5)
    assert answer.get_response()["id"] == "7"


def test_pictures_go_as_the_files_they_are(client: Any, node: Any) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (9, 7), (250, 10, 30)).save(picture, "JPEG")
    payload = np.array([[picture.getvalue()]], dtype=object)
    by_rest = client.infer("pictures", given({PAYLOAD_INPUT: payload}, binary=True)).as_numpy("y")
    with InferenceClient(node.unix) as grpc_client:
        by_grpc = grpc_client.infer("pictures", {PAYLOAD_INPUT: payload}).outputs["y"]
    np.testing.assert_array_equal(by_rest, by_grpc)


def test_the_path_always_comes_and_the_account_when_it_is_asked_for(node: Any) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    body["inputs"].append({"name": "bias", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]})
    path = "/v2/models/chain/versions/1/infer"
    _, _, plain = ask(node, "POST", path, json.dumps(body).encode())
    assert plain["parameters"] == {"tierwise.path": '["edge"]'}
    _, _, told = ask(node, "POST", path, json.dumps(body | {"parameters": {"tierwise.account": True}}).encode())
    assert json.loads(told["parameters"]["tierwise.path"]) == ["edge"]
    assert "tierwise.stages" in told["parameters"]
    assert told["outputs"] == plain["outputs"]


@pytest.mark.parametrize(
    ("verb", "path", "body", "headers", "status", "says"),
    [
        ("POST", "/v2/models/none/infer", b'{"inputs":[]}', {}, 404, "must be one of"),
        ("POST", "/v2/models/chain/versions/9/infer", b'{"inputs":[]}', {}, 404, "version"),
        ("POST", "/v2/models/chain/infer", b"", {}, 400, "must be JSON"),
        ("POST", "/v2/models/chain/infer", b'{"inputs":[]}', {}, 400, "must hold the tensors"),
        ("POST", "/v2/models/chain/infer", b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "number of bytes"),
        ("POST", "/v2/models/chain/infer", b"{}", {"Inference-Header-Content-Length": "99"}, 400, "body of 2 bytes"),
        ("POST", "/v2/models/chain/infer", b"", {"Content-Length": "99999999999"}, 413, "at most"),
        ("POST", "/v2/repository/models/x/load", b'{"parameters":{"file:1/a":"!"}}', {}, 400, "base64"),
        ("POST", "/v2/repository/models/x/load", b'{"parameters":{"sequence_id":"1"}}', {}, 400, "must be config or"),
        ("POST", "/v2/repository/models/x/load", b'{"parameters":{"config":1}}', {}, 400, "must be texts"),
        ("POST", "/v2/repository/models/x/load", b"", {}, 404, "must come with its files"),
        ("POST", "/v2/repository/models/x/unload", b"", {}, 404, "must be one of"),
        ("POST", "/v2/repository/index", b'{"ready":1}', {}, 400, "true or false"),
        ("GET", "/v2/models/none", b"", {}, 404, "must be one of"),
        ("GET", "/v2/models/chain/infer", b"", {}, 405, "openapi.json"),
        ("GET", "/v3", b"", {}, 404, "openapi.json"),
    ],
)
def test_what_is_wrong_gets_its_status_and_one_clear_error(
    node: Any, verb: str, path: str, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    found, _, content = ask(node, verb, path, body, **headers)
    assert found == status
    assert says in content["error"]


def test_many_clients_at_once_get_their_own_answers(node: Any, chain: Artifact, directly: Callable[..., Any]) -> None:
    def one(number: int) -> None:
        x = np.full((1, 4), number / 10, np.float32)
        tensors = {"x": x, "bias": np.zeros((1, 3), np.float32)}
        with triton.InferenceServerClient(node.rest.removeprefix("http://")) as client:
            answer = client.infer("chain", given(tensors, binary=number % 2 == 0)).as_numpy("y")
        np.testing.assert_allclose(answer, directly(chain, tensors), rtol=1e-4, atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(64)))


@SCHEMA.parametrize()
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_a_node_keeps_to_its_own_description(case: Any, node: Any) -> None:
    answer = case.call(base_url=node.rest)
    case.validate_response(
        answer,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )


def test_a_client_that_sends_its_request_drop_by_drop_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    monkeypatch.setattr(_http_server, "_HEAD_S", 0.5)
    with _http_server.http_server(app, ["127.0.0.1:0"]) as urls:
        port = int(urls[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            sent = 0
            with contextlib.suppress(OSError):
                for byte in b"GET / HTTP/1.1\r\nx: " + bytes(60):
                    slow.sendall(bytes([byte]))
                    sent += 1
                    time.sleep(0.1)
            assert sent < 60
        with socket.create_connection(("127.0.0.1", port), timeout=10) as quick:
            quick.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert quick.recv(100).startswith(b"HTTP/1.1 200")


def test_connections_that_ask_nothing_keep_nobody_out() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with contextlib.ExitStack() as stack:
        urls = stack.enter_context(_http_server.http_server(app, ["127.0.0.1:0"], most_connections=8))

        def connected() -> http.client.HTTPConnection:
            host = http.client.HTTPConnection(urls[0].removeprefix("http://"), timeout=10)
            stack.callback(host.close)
            host.connect()
            return host

        def ask(host: http.client.HTTPConnection) -> int:
            host.request("GET", "/")
            answer = host.getresponse()
            answer.read()
            return answer.status

        regular = connected()
        assert ask(regular) == 200
        socket_before = regular.sock
        idle = [connected() for _ in range(50)]
        assert [ask(connected()) for _ in range(5)] == [200] * 5
        assert ask(regular) == 200
        assert regular.sock is socket_before  # it was not let go: it had asked
        with pytest.raises(OSError, match=r"."):
            ask(idle[0])
        # Those that asked make room for one another too, the one that was silent longest first.
        for _ in range(20):
            late = connected()
            assert ask(late) == 200
        assert ask(late) == 200


def test_a_unix_socket_serves_and_is_taken_away(start_node: Start, tmp_path: Path) -> None:
    path = tmp_path / "rest.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    node = start_node("edge", "--rest", f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))
        one.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: one.recv(4096), b""))
    assert b'{"live":true}' in answer
    node.process.terminate()
    node.process.wait(10)
    assert not path.exists()
