"""How much a real node lets strangers take, over both fronts; each limit has one clear refusal."""

import base64
import gzip
import http.client
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from tierwise._clock import SystemClock
from tierwise._errors import RemoteError
from tierwise.artifact import PAYLOAD_INPUT, Artifact, read_files
from tierwise.runtime import PROBE
from tierwise.runtime._guard import Principal
from tierwise.runtime._quota import Quota
from tierwise.runtime._refusal import RefusalError
from tierwise.wire import METHODS, InferenceClient, infer_request, status_of

Start = Callable[..., Any]
WORK = {"work": np.array([0])}
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

LIMITS = """
max_message_bytes = 4194304
[limits]
push_bytes = 8388608
models = 2
repository_bytes = 60000
[limits.tensors]
tensors = 8
listed_elements = 1000
bytes_elements = 100
[limits.inputs]
picture_pixels = 1000000
request_pixels = 1500000
"""


@pytest.fixture(scope="module")
def node(start_node: Start, tmp_path_factory: pytest.TempPathFactory, chain: Artifact, picture_model: Artifact) -> Any:
    file = tmp_path_factory.mktemp("limits") / "node.toml"
    file.write_text(LIMITS)
    node = start_node("tight", "--rest", "127.0.0.1:0", "--config", str(file))
    with InferenceClient(node.tcp) as client:
        client.load("pictures", files=read_files(picture_model))
    return node


def post(node: Any, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    host = http.client.HTTPConnection(node.rest.removeprefix("http://"), timeout=20)
    try:
        host.request("POST", path, body, headers)
        answer = host.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        host.close()


def most_rss_bytes(node: Any) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_small_message_that_unpacks_to_a_great_one_is_not_unpacked(node: Any, algorithm: Any) -> None:
    before_bytes = most_rss_bytes(node)
    bomb = infer_request(PROBE, {"blob": np.zeros(150 << 20, np.uint8)}).encode()
    options = (("grpc.max_send_message_length", -1),)
    with grpc.insecure_channel(node.unix, compression=algorithm, options=options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(METHODS["ModelInfer"][0])(bomb, timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "is disabled" in caught.value.details()
    assert most_rss_bytes(node) - before_bytes < 16 << 20
    with InferenceClient(node.unix) as client:
        client.infer(PROBE, WORK)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_body_is_not_unpacked(node: Any, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    before_bytes = most_rss_bytes(node)
    body = pack(json.dumps({"inputs": []}).encode() + b" " * (100 << 20))
    status, told = post(node, f"/v2/models/{PROBE}/infer", body, **{"content-encoding": encoding})
    assert status == 400
    assert "must be JSON" in told["error"]
    assert most_rss_bytes(node) - before_bytes < 16 << 20


def test_messages_bodies_and_pushes_have_a_size(node: Any) -> None:
    with InferenceClient(node.tcp) as client:
        with pytest.raises(RemoteError, match=r"tier tight: a request must have at most 4,194,304 bytes") as caught:
            client.infer(PROBE, {"blob": np.zeros(5 << 20, np.uint8)})
        assert status_of(caught.value) is EXHAUSTED
        with pytest.raises(RemoteError, match=r"RESOURCE_EXHAUSTED: .*larger than max \(\d+ vs\. 8388608\)"):
            client.load("m", files={"manifest.json": bytes(9 << 20)})
    assert post(node, f"/v2/models/{PROBE}/infer", bytes(5 << 20))[0] == 413
    status, told = post(node, "/v2/repository/models/m/load", bytes(9 << 20))
    assert status == 413
    assert "at most 8,388,608 bytes" in told["error"]


def test_tensors_have_a_number_and_elements(node: Any) -> None:
    with InferenceClient(node.tcp) as client:
        with pytest.raises(RemoteError, match="at most 8 tensors"):
            client.infer(PROBE, {f"t{i}": np.zeros(1, np.uint8) for i in range(9)})
        with pytest.raises(RemoteError, match="a tensor of BYTES may have at most 100 elements"):
            client.infer("pictures", {PAYLOAD_INPUT: np.full((101, 1), b"x", object)})
    head = {"name": "blob", "datatype": "UINT8", "shape": [2000], "data": [0] * 2000}
    status, told = post(node, f"/v2/models/{PROBE}/infer", json.dumps({"inputs": [head]}).encode())
    assert (status, "at most 1,000 elements in this form" in told["error"]) == (400, True)
    # What the head says is not what counts.
    status, told = post(node, f"/v2/models/{PROBE}/infer", json.dumps({"inputs": [head | {"shape": [1]}]}).encode())
    assert (status, "at most 1,000 values" in told["error"]) == (400, True)


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (width, height)).save(out, "PNG")
    return out.getvalue()


def test_pictures_are_as_large_as_their_head_says(node: Any) -> None:
    bomb, half = png(8000, 8000), png(1000, 900)
    before_bytes = most_rss_bytes(node)
    with InferenceClient(node.tcp) as client:
        with pytest.raises(
            RemoteError, match=r"payload\[0\]: a picture may have at most 1,000,000 pixels .* 8000 x 8000"
        ):
            client.infer("pictures", {PAYLOAD_INPUT: np.array([[bomb]], object)})
        with pytest.raises(RemoteError, match=r"payload\[1\]: a picture may have at most 600,000 pixels"):
            client.infer("pictures", {PAYLOAD_INPUT: np.array([[half], [half]], object)})
        for kind in ("GIF", "TIFF", "EPS"):
            out = io.BytesIO()
            Image.new("L", (8, 8)).save(out, kind)
            with pytest.raises(RemoteError, match="the bytes must be a picture, JPEG, PNG, WEBP, BMP"):
                client.infer("pictures", {PAYLOAD_INPUT: np.array([[out.getvalue()]], object)})
    head = {
        "name": PAYLOAD_INPUT,
        "datatype": "BYTES",
        "shape": [1, 1],
        "parameters": {"binary_data_size": len(bomb) + 4},
    }
    told_json = json.dumps({"inputs": [head]}).encode()
    body = told_json + len(bomb).to_bytes(4, "little") + bomb
    behind = {"inference-header-content-length": str(len(told_json))}
    status, told = post(node, "/v2/models/pictures/infer", body, **behind)
    assert (status, "1,000,000 pixels" in told["error"]) == (400, True)
    assert most_rss_bytes(node) - before_bytes < 32 << 20


def test_models_and_the_repository_have_a_size(node: Any, chain: Artifact) -> None:
    files = read_files(chain)
    with InferenceClient(node.tcp) as client:
        client.load("a", files=files)
        client.load("a", files=files)  # in its own place
        with pytest.raises(RemoteError, match=r"a node may serve at most 2 models, but got 3\. Unload one") as caught:
            client.load("b", files=files)
        assert status_of(caught.value) is EXHAUSTED
        with pytest.raises(RemoteError, match="at most 2 models"):
            client.load("a", b'{"versions": 2}', files)
        packed = {f"file:1/{name}": base64.b64encode(content).decode() for name, content in files.items()}
        assert post(node, "/v2/repository/models/b/load", json.dumps({"parameters": packed}).encode())[0] == 507
        client.unload("a")
        with pytest.raises(
            RemoteError, match=r"the repository may hold at most 60,000 bytes, but got .* Unload a model"
        ):
            client.load("b", files=files | {"big.bin": bytes(60_000)})
        assert {model.name for model in client.index()} == {PROBE, "pictures"}


def test_connections_are_counted(start_node: Start, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[limits]\nconnections = 4\n")
    node = start_node("narrow", "--rest", "127.0.0.1:0", "--config", str(tmp_path / "node.toml"))
    clients = [InferenceClient(node.tcp, timeout_s=2.0) for _ in range(8)]
    alive = [client.live() for client in clients]
    assert 1 <= sum(alive) < 8
    for client in clients:
        client.close()
    with InferenceClient(node.tcp) as client:
        assert client.live(wait_s=10)
    place = node.rest.removeprefix("http://").split(":")
    held = [socket.create_connection((place[0], int(place[1]))) for _ in range(8)]
    answers = [_first_bytes(one) for one in held]
    for one in held:
        one.close()
    # A refused connection is closed at once, which may overtake its answer; some come before all others are there.
    told = {answer[9:12] for answer in answers}
    assert told & {b"503", b""}
    assert told <= {b"200", b"503", b""}
    deadline_s = time.monotonic() + 10
    while True:
        with socket.create_connection((place[0], int(place[1]))) as one:
            if _first_bytes(one)[9:12] == b"200":
                break
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_requests_at_once_over_one_connection_have_a_bound(start_node: Start, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[limits]\nstreams = 2\n")
    node = start_node("streams", "--config", str(tmp_path / "node.toml"))
    live, load = (METHODS[name][0] for name in ("ServerLive", "RepositoryModelLoad"))
    go_on = threading.Event()

    def nothing_yet() -> Iterator[bytes]:
        go_on.wait(30)
        return
        yield b""

    with grpc.insecure_channel(node.tcp) as channel, grpc.insecure_channel(node.tcp, (("other", 1),)) as another:
        ask = channel.unary_unary(live)
        ask(b"", timeout=10)
        held = [channel.stream_unary(load).future(nothing_yet(), timeout=30) for _ in range(2)]
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"", timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        another.unary_unary(live)(b"", timeout=10)  # the bound is each connection's own
        go_on.set()
        ask(b"", timeout=10)
        assert all(one.code() is grpc.StatusCode.INVALID_ARGUMENT for one in held)  # there was no message


def _first_bytes(one: socket.socket) -> bytes:
    one.settimeout(5)
    try:
        one.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        return one.recv(100)
    except ConnectionError:
        return b""


def test_each_client_has_a_rate_and_so_many_requests_under_way(start_node: Start, tmp_path: Path) -> None:
    text = '[security]\nlocal = "trusted"\n[limits]\nrate_per_s = 5.0\nrate_burst = 10\nconcurrent = 2\n'
    (tmp_path / "node.toml").write_text(text)
    node = start_node("calm", "--rest", "127.0.0.1:0", "--config", str(tmp_path / "node.toml"))
    with InferenceClient(node.tcp) as client:
        busy = {"work": np.array([300])}
        with ThreadPoolExecutor(4) as pool:
            told = [pool.submit(client.infer, PROBE, busy) for _ in range(4)]
        errors = [str(future.exception()) for future in told if future.exception() is not None]
        assert len(errors) == 2
        assert all("local may have 2 requests under way" in error for error in errors)
        with ThreadPoolExecutor(1) as pool:
            told = [pool.submit(client.infer, PROBE, WORK) for _ in range(20)]
        refused = [future.exception() for future in told if future.exception() is not None]
        assert refused
        assert all("local may ask 5 times a second. Ask again later" in str(error) for error in refused)
        assert {status_of(error) for error in refused if isinstance(error, RemoteError)} == {EXHAUSTED}
        assert client.live()  # whoever watches the node is not counted
    status, told_rest = post(node, f"/v2/models/{PROBE}/infer", b"{}")
    assert (status, "5 times a second" in told_rest["error"]) == (503, True)


def test_the_process_may_allocate_so_much(start_node: Start, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("max_message_bytes = 2000000000\n[limits]\nmemory_bytes = 1500000000\n")
    node = start_node("bounded", "--config", str(tmp_path / "node.toml"))
    with InferenceClient(node.unix) as client:
        client.infer(PROBE, WORK)
    limits = Path(f"/proc/{node.process.pid}/limits").read_text()
    assert "Max data size             1500000000" in limits


class Still:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.ns = 0

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def test_the_bucket_fills_at_its_rate_and_no_further() -> None:
    clock = Still()
    quota = Quota(clock, rate_per_s=2.0, burst=3, concurrent=None)
    someone, other = Principal("a"), Principal("b")
    for _ in range(3):
        quota.charge(someone)
    with pytest.raises(RefusalError) as caught:
        quota.charge(someone)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    quota.charge(other)
    clock.sleep(0.5)
    quota.charge(someone)
    clock.sleep(100)
    for _ in range(3):
        quota.charge(someone)
    with pytest.raises(RefusalError):
        quota.charge(someone)


def test_strangers_with_many_names_do_not_cost_memory_and_who_is_inside_stays_counted() -> None:
    quota = Quota(SystemClock(), rate_per_s=0.001, burst=1, concurrent=1)
    with quota.held(Principal("inside")):
        for number in range(6000):
            quota.charge(Principal(f"n{number}"))
        assert len(quota._uses) <= 4096
        with pytest.raises(RefusalError, match="1 requests under way"), quota.held(Principal("inside")):
            pass
    with quota.held(Principal("inside")):
        pass


def test_the_quota_counts_right_under_many_threads() -> None:
    quota = Quota(SystemClock(), rate_per_s=1e-9, burst=50, concurrent=None)
    let_in = []

    def ask() -> None:
        for _ in range(20):
            try:
                quota.charge(Principal("a"))
            except RefusalError:
                continue
            let_in.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 50
