"""A node as others see it: a process, and a server of the protocol."""

import io
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from tierwise._errors import RemoteError
from tierwise.artifact import PAYLOAD_INPUT, Artifact, read_files
from tierwise.runtime import PROBE
from tierwise.wire import METHODS, Framed, InferenceClient, infer_request, protocol, status_of

Inputs = dict[str, Any]
Start = Callable[..., Any]


def triton_inputs(inputs: Inputs) -> list[Any]:
    given = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "FP32")
        tensor.set_data_from_numpy(array)
        given.append(tensor)
    return given


def test_another_client_lists_loads_asks_and_unloads(
    start_node: Start, chain: Artifact, inputs: Inputs, directly: Callable[..., Any]
) -> None:
    node = start_node()
    client = triton.InferenceServerClient(node.tcp)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata().name == "tierwise"
        assert [model.name for model in client.get_model_repository_index().models] == [PROBE]
        assert not client.is_model_ready("chain")
        files = {f"file:1/{name}": content for name, content in read_files(chain).items()}
        client.load_model("chain", config=json.dumps({"segments": [0, 3]}), files=files)
        assert client.is_model_ready("chain", "1")
        assert {(m.name, m.state) for m in client.get_model_repository_index().models} == {
            (PROBE, "READY"),
            ("chain", "READY"),
        }
        metadata = client.get_model_metadata("chain")
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
            ("x", "FP32", [-1, 4]),
            ("bias", "FP32", [-1, 3]),
        ]
        answer = client.infer(
            "chain", triton_inputs(inputs), request_id="7", model_version="1", parameters={"tierwise.account": True}
        )
        np.testing.assert_allclose(answer.as_numpy("y"), directly(chain, inputs), atol=1e-6)
        response = answer.get_response()
        assert (response.id, response.model_version) == ("7", "1")
        assert response.parameters["tierwise.path"].string_param == '["node"]'
        stages = json.loads(response.parameters["tierwise.stages"].string_param)
        assert [stage for _, stage, _ in stages] == ["decode", "queue", "preprocess", "infer", "encode"]
        told = client.infer("chain", triton_inputs(inputs)).get_response().parameters
        assert {name: told[name].string_param for name in told} == {"tierwise.path": '["node"]'}
        client.unload_model("chain")
        assert not client.is_model_ready("chain")
        with pytest.raises(triton.InferenceServerException, match=r"NOT_FOUND.*tier node: the model must be one of"):
            client.infer("chain", triton_inputs(inputs))
    finally:
        client.close()


def jpeg(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), grey, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def payload(*elements: bytes) -> Inputs:
    column = np.empty((len(elements), 1), dtype=object)
    column[:, 0] = elements
    return {PAYLOAD_INPUT: column}


def test_pictures_are_decoded_on_the_node(start_node: Start, picture_model: Artifact) -> None:
    with InferenceClient(start_node().unix) as client:
        client.load("picture", None, read_files(picture_model))
        answer = client.infer("picture", payload(jpeg(51), jpeg(204))).outputs["y"]
        assert client.model_metadata("picture").inputs[0].dtype == "BYTES"
    np.testing.assert_allclose(answer.ravel(), [0.2, 0.8], atol=0.01)


def test_typed_contents_are_answered_too(start_node: Start, chain: Artifact, inputs: Inputs) -> None:
    with InferenceClient(start_node().unix) as client:
        client.load("chain", None, read_files(chain))
        raw = client.infer("chain", inputs).outputs["y"]
        request = Framed(protocol.ModelInferRequest(model_name="chain"), ())
        for name, array in inputs.items():
            tensor = request.message.inputs.add(name=name, datatype="FP32", shape=array.shape)
            tensor.contents.fp32_contents.extend(array.ravel().tolist())
        typed = client.exchange(request).response.contents[0]
    assert typed == raw.tobytes()


@pytest.fixture(scope="module")
def table(start_node: Start, chain: Artifact, picture_model: Artifact) -> Any:
    """One node that must live through every wrong request below."""
    node = start_node("edge")
    with InferenceClient(node.tcp) as client:
        client.load("chain", None, read_files(chain))
        client.load("picture", None, read_files(picture_model))
        yield node, client
        assert client.live()
        assert node.process.poll() is None


ROWS, BIAS = np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32)
WRONG: dict[str, tuple[str, Inputs, list[str] | None, str]] = {
    "unknown model": ("nobody", {"x": ROWS}, None, r"NOT_FOUND: tier edge: the model must be one of chain, picture, t"),
    "unknown output": ("chain", {"x": ROWS, "bias": BIAS}, ["z"], r"outputs must be among \['y'\], but got 'z'"),
    "wrong name": ("chain", {"X": ROWS, "bias": BIAS}, None, r"must hold the tensors \['x', 'bias'\], but got"),
    "no tensors": ("chain", {}, None, r"must hold the tensors"),
    "wrong type": (
        "chain",
        {"x": ROWS.astype(int), "bias": BIAS},
        None,
        r"x: .*FP32 \[-1, 4\], but got INT64 \[1, 4\]",
    ),
    "wrong shape": ("chain", {"x": ROWS[:, :2], "bias": BIAS}, None, r"x: .*FP32 \[-1, 4\], but got FP32 \[1, 2\]"),
    "not a picture": ("picture", payload(b"not a jpeg"), None, r"payload\[0\]: the bytes must be a picture"),
    "half a picture": ("picture", payload(jpeg(9), jpeg(9)[:-40]), None, r"payload\[1\]: the bytes must be a picture"),
    "pixels for jpeg": ("picture", {PAYLOAD_INPUT: np.zeros((1, 8, 8, 1), np.uint8)}, None, r"must be BYTES \[n, 1\]"),
    "probe overflow": (PROBE, {"work": np.array([-1])}, None, r"work: it must be INT64 \[1\] from 0 to"),
    "probe blob": (PROBE, {"bytes": np.array([2**40])}, None, r"bytes: it must be INT64 \[1\] from 0 to"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(table: Any, case: str) -> None:
    _, client = table
    model, inputs, outputs, text = WRONG[case]
    with pytest.raises(RemoteError, match=text) as caught:
        client.infer(model, inputs, outputs)
    wanted = grpc.StatusCode.NOT_FOUND if "NOT_FOUND" in text else grpc.StatusCode.INVALID_ARGUMENT
    assert status_of(caught.value) is wanted
    assert "tier edge: " in str(caught.value)


def test_what_is_wrong_on_the_wire_is_said(table: Any) -> None:
    node, client = table
    request = infer_request("chain", {"x": ROWS, "bias": BIAS})
    request.contents = (b"123", request.contents[1])
    with pytest.raises(RemoteError, match=r"INVALID_ARGUMENT: .*x: FP32 \[1, 4\] must come as 16 bytes, but got 3"):
        client.exchange(request)
    request = infer_request("chain", {"x": ROWS, "bias": BIAS})
    request.message.model_version = "2"
    with pytest.raises(RemoteError, match=r"NOT_FOUND: .*version of model 'chain' must be one of 1, but got '2'"):
        client.exchange(request)
    with grpc.insecure_channel(node.tcp) as channel:
        for name, (path, _, _) in METHODS.items():
            if name.startswith(("Model", "Repository")):
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(path)(b"\xff\xff\xff")
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name


@pytest.mark.parametrize(
    ("name", "config", "drop", "text"),
    [
        ("a/b", b"{}", None, r"INVALID_ARGUMENT: .*name must be letters"),
        ("..", b"{}", None, r"INVALID_ARGUMENT: .*name must be letters"),
        (PROBE, b"{}", None, r"INVALID_ARGUMENT: .*name must be letters"),
        ("new", b"{", None, r"INVALID_ARGUMENT: .*config: the config must be JSON of a share"),
        ("new", b'{"segment": 1}', None, r"unknown field `segment`"),
        ("new", b'{"segments": [2, 1]}', None, r"0 <= first <= last, but got \[2, 1\]"),
        ("new", b'{"segments": [0, 9]}', None, r"within the artifact's 3 segments, but got \[0, 9\)"),
        ("new", b'{"segments": [0, 1]}', None, r"FAILED_PRECONDITION: .*must name the node to forward to"),
        ("new", b'{"segments": [0, 0]}', None, r"FAILED_PRECONDITION: .*must name the node to forward to"),
        ("new", b'{"forward": "h:1"}', None, r"INVALID_ARGUMENT: .*runs the last segment must not forward"),
        ("new", b"{}", "manifest.json", r"INVALID_ARGUMENT: .*must include manifest.json"),
        ("new", b"{}", "segments/1.onnx", r"INVALID_ARGUMENT: .*segments/1\.onnx' of the manifest must be sent"),
        ("new", b"{}", "all", r"NOT_FOUND: .*must come with its files the first time"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    table: Any, chain: Artifact, name: str, config: bytes, drop: str | None, text: str
) -> None:
    _, client = table
    before = client.index()
    files = {key: content for key, content in read_files(chain).items() if drop not in (key, "all")}
    with pytest.raises(RemoteError, match=text):
        client.load(name, config, files)
    assert client.index() == before


def test_a_failed_replacement_leaves_what_was_served(table: Any, chain: Artifact, inputs: Inputs) -> None:
    _, client = table
    wanted = client.infer("chain", inputs).outputs["y"]
    files = read_files(chain)
    with pytest.raises(RemoteError, match=r"INVALID_ARGUMENT: .*segments/0\.onnx: the content must be .*but got"):
        client.load("chain", None, files | {"segments/0.onnx": b"X" + files["segments/0.onnx"][1:]})
    with pytest.raises(RemoteError, match=r"parameters must be 'config' or 'file:1/NAME', but got 'x'"):
        client._ask(
            "RepositoryModelLoad", protocol.RepositoryModelLoadRequest(model_name="chain", parameters={"x": {}})
        )
    np.testing.assert_array_equal(client.infer("chain", inputs).outputs["y"], wanted)


def test_unknown_and_built_in_models_cannot_be_unloaded(table: Any) -> None:
    _, client = table
    with pytest.raises(RemoteError, match=r"NOT_FOUND: .*but got 'nobody'"):
        client.unload("nobody")
    with pytest.raises(RemoteError, match=r"INVALID_ARGUMENT: .*built-in model cannot be unloaded"):
        client.unload(PROBE)


def test_too_large_a_request_is_refused_with_both_sizes(table: Any) -> None:
    _, client = table
    text = r"RESOURCE_EXHAUSTED: .*at most 67,108,864 bytes, but got 70,0\d\d,\d\d\d\. Send fewer"
    with pytest.raises(RemoteError, match=text):
        client.infer(PROBE, {"blob": np.zeros(70_000_000, np.uint8)})


def test_the_probe_carries_bytes_both_ways(table: Any) -> None:
    _, client = table
    answer = client.infer(PROBE, {"blob": np.zeros(300_000, np.uint8), "bytes": np.array([100_000])})
    assert answer.outputs["blob"].shape == (100_000,)
    assert answer.sent_bytes > 300_000
    assert 100_000 < answer.received_bytes < 110_000


def test_a_node_answers_while_it_computes(start_node: Start) -> None:
    node = start_node()
    with InferenceClient(node.unix) as client:
        client.infer(PROBE, {"work": np.array([1])})
        busy = threading.Thread(target=client.infer, args=(PROBE, {"work": np.array([600])}))
        busy.start()
        time.sleep(0.05)
        started_s = time.perf_counter()
        assert client.live()
        assert client.model_metadata(PROBE).properties["tierwise.tier"] == "node"
        assert busy.is_alive()
        assert time.perf_counter() - started_s < 0.4
        busy.join()


@pytest.mark.emulation
def test_pace_stretches_computing(start_node: Start) -> None:
    with InferenceClient(start_node("slow", "--pace", "0.5").unix) as client:
        client.infer(PROBE, {"work": np.array([1])})
        answers = [client.infer(PROBE, {"work": np.array([4])}).outputs for _ in range(40)]
    stretches = [outputs["wall_ns"].item() / outputs["cpu_ns"].item() for outputs in answers]
    # A sleep that lasts too long is taken off the next one, so a single answer may owe less.
    assert statistics.median(stretches) > 1.9
    # Waiting for a CPU on a busy machine adds to the wall time; the calmest of many short answers shows the stretch.
    assert min(stretches) < 3


def test_replaced_under_load_no_request_fails(
    start_node: Start, chain: Artifact, other_chain: Artifact, inputs: Inputs, directly: Callable[..., Any]
) -> None:
    node = start_node()
    wanted = [directly(artifact, inputs).tobytes() for artifact in (chain, other_chain)]
    stop, failures, answers = threading.Event(), [], []
    with InferenceClient(node.unix) as client, InferenceClient(node.tcp) as admin:
        admin.load("m", None, read_files(chain))

        def ask() -> None:
            while not stop.is_set():
                try:
                    answers.append(client.infer("m", inputs).outputs["y"].tobytes())
                except RemoteError as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(20):
            admin.load("m", None, read_files(other_chain if i % 2 == 0 else chain))
        admin.load("m", b"{}")  # what it has already, loaded anew
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(answers) == set(wanted)


def test_an_ended_node_leaves_nothing(start_node: Start, chain: Artifact) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        node = start_node()
        folder = Path(node.unix.removeprefix("unix:")).parent
        with InferenceClient(node.unix) as client:
            client.load("chain", None, read_files(chain))
            assert list(folder.glob("tierwise-node-*/chain/*/manifest.json"))
        others = len(list(folder.glob("tierwise-node-*")))
        node.process.send_signal(number)
        assert node.process.wait(10) == 0
        assert len(list(folder.glob("tierwise-node-*"))) == others - 1
        assert not Path(node.unix.removeprefix("unix:")).exists()


def test_a_kept_repository_serves_again_without_files(
    start_node: Start, tmp_path: Path, chain: Artifact, inputs: Inputs
) -> None:
    node = start_node("a", "--repository", str(tmp_path / "kept"))
    with InferenceClient(node.unix) as client:
        client.load("chain", None, read_files(chain))
        wanted = client.infer("chain", inputs).outputs["y"]
        client.unload("chain")
        assert [(m.name, m.state) for m in client.index()] == [(PROBE, "READY"), ("chain", "UNAVAILABLE")]
        assert [m.name for m in client.index(only_ready=True)] == [PROBE]
    node.process.terminate()
    node.process.wait(10)
    with InferenceClient(start_node("b", "--repository", str(tmp_path / "kept")).unix) as client:
        client.load("chain")
        np.testing.assert_array_equal(client.infer("chain", inputs).outputs["y"], wanted)


def test_a_taken_port_is_an_error_with_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "tierwise", "node", "--listen", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert f"tierwise: {address}: the node must be able to listen there" in done.stderr


def test_a_node_carries_nothing_heavy(start_node: Start, chain: Artifact, inputs: Inputs) -> None:
    node = start_node()
    with InferenceClient(node.unix) as client:
        client.load("chain", None, read_files(chain))
        client.infer("chain", inputs)
    maps = Path(f"/proc/{node.process.pid}/maps")
    if not maps.exists():
        pytest.skip("/proc is needed to look into another process")
    mapped = {line.split("/", 1)[1] for line in maps.read_text().splitlines() if "/" in line}
    assert any("onnxruntime" in path for path in mapped)
    for heavy in ("torch", "transformers", "/onnx/", "/scipy/", "sklearn", "tokenizers", "/PIL/"):
        assert not [path for path in mapped if heavy in path], heavy


def test_serving_imports_nothing_heavy() -> None:
    code = """
import json, os, signal, sys, threading
from tierwise.runtime import NodeSpec, serve
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
serve(NodeSpec(listen=("127.0.0.1:0",)))
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    ready, modules = done.stdout.splitlines()
    assert ready.startswith("tierwise node node ready on 127.0.0.1:")
    loaded = set(json.loads(modules))
    heavy = {"torch", "transformers", "onnx", "scipy", "sklearn", "PIL", "tokenizers", "rich", "altair"}
    assert loaded & heavy == set()
    assert {"onnxruntime", "grpc"} <= loaded
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events == ["ready", "draining", "stopped"]  # and not a word from anything else


def test_more_requests_than_may_wait_are_refused_and_liveness_is_not() -> None:
    code = """
from tierwise.runtime import NodeSpec, serve
serve(NodeSpec(listen=("127.0.0.1:0",), tier="full", max_waiting=2))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" ready on ")[1].strip()
        with InferenceClient(address) as client:
            answers: list[str] = []

            def ask() -> None:
                try:
                    client.infer(PROBE, {"work": np.array([200])})
                    answers.append("answered")
                except RemoteError as error:
                    answers.append(str(error))

            threads = [threading.Thread(target=ask) for _ in range(5)]
            for thread in threads:
                thread.start()
            assert client.live()
            for thread in threads:
                thread.join()
        process.terminate()
    assert sorted(answers)[-2:] == ["answered", "answered"]
    assert all("RESOURCE_EXHAUSTED: tier full: at most 2 requests may wait" in answer for answer in sorted(answers)[:3])
