"""Starting, checking and stopping a node."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper

from tierwise._errors import RemoteError
from tierwise.artifact import Artifact, Segment, TensorInput, TensorSpec, read_files
from tierwise.runtime import PROBE, NodeSpec, check
from tierwise.wire import InferenceClient, status_of

Start = Callable[..., Any]


def node(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tierwise", "node", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_node_that_is_told_to_stop_answers_what_it_has_begun(start_node: Start, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("grace_s = 60.0\n")
    running = start_node("leaving", "--config", str(config))
    came: list[Any] = []
    with InferenceClient(running.tcp) as client, InferenceClient(running.unix) as other:
        client.infer(PROBE, {"work": np.array([1])})
        thread = threading.Thread(
            target=lambda: came.append(client.infer(PROBE, {"work": np.array([800])}).outputs["wall_ns"].item())
        )
        thread.start()
        time.sleep(0.2)
        assert other.ready()
        running.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + 5
        while other.ready() and time.monotonic() < deadline_s:
            time.sleep(0.005)
        assert not came  # it is still at it
        assert not other.ready()
        assert not other.model_ready(PROBE)
        with pytest.raises(RemoteError, match=r"tier leaving: a node that is going away takes no new") as caught:
            other.infer(PROBE, {"work": np.array([1])})
        assert status_of(caught.value) is grpc.StatusCode.UNAVAILABLE
        thread.join()
    assert len(came) == 1
    assert running.process.wait(10) == 0


def endless(directory: Path, make: Callable[..., Artifact]) -> Artifact:
    """x: FP32 [n, 1] -> y: multiplies matrices as many times as its first entry says."""
    x, y = (TensorSpec(name=name, dtype="FP32", shape=(-1, 1)) for name in "xy")
    info, node, constant = helper.make_tensor_value_info, helper.make_node, numpy_helper.from_array
    inside = helper.make_graph(
        [
            node("MatMul", ["held", "w"], ["made"]),
            node("Identity", ["going"], ["on"]),
        ],
        "inside",
        [
            info("step", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("held", TensorProto.FLOAT, [256, 256]),
        ],
        [info("on", TensorProto.BOOL, []), info("made", TensorProto.FLOAT, [256, 256])],
    )
    weights = {
        "w": np.eye(256, dtype=np.float32),
        "yes": np.array(True),
        "corner": np.array([0, 0]),
        "zero": np.array(0, np.float32),
    }
    graph = helper.make_graph(
        [
            node("GatherND", ["x", "corner"], ["times"]),
            node("Cast", ["times"], ["count"], to=TensorProto.INT64),
            node("Loop", ["count", "yes", "w"], ["end"], body=inside),
            node("GatherND", ["end", "corner"], ["one"]),
            node("Mul", ["one", "zero"], ["nothing"]),
            node("Add", ["x", "nothing"], ["y"]),
        ],
        "g",
        [info("x", TensorProto.FLOAT, ["n", 1])],
        [info("y", TensorProto.FLOAT, ["n", 1])],
        [constant(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    segment = Segment(file="m.onnx", inputs=(x,), outputs=(y,), macs=1)
    return make(directory, [(model.SerializeToString(), segment)], TensorInput(tensors=(x,)), (y,))


@pytest.mark.parametrize("front", ["grpc", "rest"])
def test_a_model_that_computes_for_hours_does_not_keep_a_node_that_is_told_to_stop(
    start_node: Start, tmp_path: Path, make: Callable[..., Artifact], front: str
) -> None:
    config = tmp_path / "node.toml"
    config.write_text("grace_s = 0.5\n")
    kept = ("--repository", str(tmp_path / "kept"))
    running = start_node("busy", "--config", str(config), *kept, "--rest", "127.0.0.1:0")
    came: list[str] = []
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1e9]}]}

    def ask() -> None:
        try:
            if front == "grpc":
                with InferenceClient(running.tcp) as other:
                    other.infer("m", {"x": np.array([[1e9]], np.float32)})
            else:
                url = f"{running.rest}/v2/models/m/infer"
                urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()))
        except (RemoteError, OSError, http.client.HTTPException) as error:
            came.append(str(error))

    with InferenceClient(running.unix) as client:
        client.load("m", None, read_files(endless(tmp_path / "a", make)))
        assert client.infer("m", {"x": np.array([[2.0]], np.float32)}).outputs["y"].tolist() == [[2.0]]
        thread = threading.Thread(target=ask)
        thread.start()
        while 'tierwise_requests_under_way{tier="busy"} 1.0' not in client.metrics():
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
    thread.join(10)
    assert len(came) == 1  # an error, and no answer
    again = start_node("again", *kept)
    with InferenceClient(again.unix) as client:
        assert client.infer("m", {"x": np.array([[3.0]], np.float32)}).outputs["y"].tolist() == [[3.0]]


def test_a_request_without_time_is_refused_and_one_with_a_bad_parameter_too(start_node: Start) -> None:
    with InferenceClient(start_node("busy").tcp) as client:
        work = {"work": np.array([1])}
        assert client.infer(PROBE, work, parameters={"timeout": 5_000_000, "priority": 1}).outputs
        with pytest.raises(RemoteError, match=r"DEADLINE_EXCEEDED: tier busy: the request must") as caught:
            client.infer(PROBE, work, parameters={"timeout": 1})
        assert status_of(caught.value) is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(RemoteError, match=r"priority: the parameter must be a whole number from 0 on, but got -1"):
            client.infer(PROBE, work, parameters={"priority": -1})


def test_the_config_file_says_how_to_serve_and_options_replace_it(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('listen = ["127.0.0.1:0"]\ntier = "edge"\n[batching]\nbudget_s = 0.02\n')
    done = node("--config", str(config), "--check")
    assert (done.returncode, done.stdout) == (0, "tierwise node edge: could serve on 127.0.0.1:0\n")
    done = node("--config", str(config), "--tier", "cloud", "--check")
    assert done.stdout == "tierwise node cloud: could serve on 127.0.0.1:0\n"
    config.write_text("tires = 4\n")
    done = node("--config", str(config), "--check")
    assert done.returncode == 2
    assert "unknown field `tires`" in done.stderr


def test_what_would_keep_a_node_from_serving_is_all_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "file").touch()
        done = node(
            "--listen", f"127.0.0.1:{port}", "--listen", f"unix:{tmp_path}/no/s", "--repository",
            str(tmp_path / "file"), "--check",
        )  # fmt: skip
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert f"127.0.0.1:{port}: the node must be able to listen there" in lines[0]
    assert "the socket's folder must exist and be writable" in lines[1]
    assert "the repository must be a folder" in lines[2]


def test_a_damaged_repository_is_found_before_it_is_served(start_node: Start, tmp_path: Path, chain: Artifact) -> None:
    folder = tmp_path / "kept"
    running = start_node("k", "--repository", str(folder))
    with InferenceClient(running.unix) as client:
        client.load("m", None, read_files(chain))
    running.process.terminate()
    running.process.wait(10)
    spec = NodeSpec(listen=("127.0.0.1:0",), repository=str(folder))
    assert check(spec) == []
    record = folder / "m/serving.json"
    whole = record.read_bytes()
    record.write_bytes(whole[:10])
    assert "the record of what is served must be readable" in check(spec)[0]
    record.write_bytes(whole)
    (folder / "m/000000001/segments/1.onnx").unlink()
    assert len(check(spec)) == 1


def test_addresses_that_are_none_or_come_twice_are_found() -> None:
    assert check(NodeSpec(listen=("nowhere",))) == ["nowhere: an address must be HOST:PORT or unix:PATH"]
    assert check(NodeSpec(listen=("127.0.0.1:65536",))) == [
        "127.0.0.1:65536: an address must be HOST:PORT or unix:PATH"
    ]
    assert "given once, but got 127.0.0.1:9 2 times" in check(NodeSpec(listen=("127.0.0.1:9", "127.0.0.1:9")))[0]


def test_the_statistics_extension_as_another_client_reads_it(
    start_node: Start, chain: Artifact, inputs: dict[str, Any]
) -> None:
    node = start_node("counted")
    with InferenceClient(node.unix) as client:
        client.load("m", None, read_files(chain))
        for _ in range(3):
            client.infer("m", inputs)
        with pytest.raises(RemoteError):
            client.infer("m", {"x": inputs["x"]})
    other = triton.InferenceServerClient(node.tcp)
    try:
        (model,) = other.get_inference_statistics("m").model_stats
        assert {stats.name for stats in other.get_inference_statistics().model_stats} == {"m", PROBE}
        with pytest.raises(triton.InferenceServerException, match="the model must be one of"):
            other.get_inference_statistics("nobody")
    finally:
        other.close()
    assert (model.name, model.version) == ("m", "1")
    assert (model.inference_count, model.execution_count) == (6, 3)  # two items in each of three requests
    assert (model.inference_stats.success.count, model.inference_stats.fail.count) == (3, 1)
    assert model.inference_stats.success.ns >= model.inference_stats.compute_infer.ns > 0
    ((size, runs),) = [(batch.batch_size, batch.compute_infer.count) for batch in model.batch_stats]
    assert (size, runs) == (2, 3)
    assert abs(time.time() * 1000 - model.last_inference) < 60_000


def open_files(limit: str, folder: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """A node under ``ulimit LIMIT`` and its addresses; its log lies in ``folder``."""
    words = "node --listen 127.0.0.1:0 --rest 127.0.0.1:0 --threads 1"
    command = ["sh", "-c", f"ulimit {limit}; exec {sys.executable} -m tierwise {words}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, [address.removeprefix("http://") for address in line.strip().split(" ready on ")[1].split(", ")]


def test_where_open_files_are_used_up_few_words_are_made_and_it_recovers(tmp_path: Path) -> None:
    process, (grpc_address, rest) = open_files("-n 120", tmp_path)
    host, port = rest.split(":")
    held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(200)]
    time.sleep(2.0)
    for one in held:
        one.close()
    with InferenceClient(grpc_address) as client:
        assert client.live(wait_s=20.0)
    with socket.create_connection((host, int(port)), timeout=20) as again:
        again.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert again.recv(100).startswith(b"HTTP/1.1 200")
    process.kill()
    process.communicate()
    said = (tmp_path / "log").read_text().splitlines()
    assert sum("out of system resource" in line for line in said) == 1
    assert len(said) < 20


def test_a_node_takes_the_open_files_it_may_have(tmp_path: Path) -> None:
    process, _ = open_files("-S -n 120", tmp_path)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    process.kill()
    process.communicate()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = map(int, line.split()[3:5])
    assert soft == min(hard, 65_536)
