"""The console over HTTP: what it answers, to whom, and what of hostile nodes and clients reaches the picture."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from starlette.testclient import TestClient

from tierwise._errors import InputError, SpecError
from tierwise.console import ConsoleSpec, Watched, console_app
from tierwise.console._client_watch import ClientWatch
from tierwise.console._host_check import host_allowed
from tierwise.runtime import ClientMetrics, Placed, Share, deploy, metrics_server
from tierwise.testing import FakeClock
from tierwise.topology import Topology, load
from tierwise.wire import CHANNEL_OPTIONS, InferenceClient, protocol

# Nothing listens on the discard port.
_NOBODY = ConsoleSpec(nodes=(Watched(address="127.0.0.1:9"),))


@pytest.fixture
def client():
    with TestClient(console_app(_NOBODY), base_url="http://127.0.0.1:8080") as client:
        yield client


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True), ("localhost:8080", True), ("LOCALHOST.:1", True), ("127.0.0.1", True),
        ("10.1.2.3:8080", True), ("[::1]:8080", True), ("shop.example:80", True),
        ("evil.example", False), ("localhost.evil.example", False), ("127.0.0.1.evil.example:8080", False),
        ("", False), ("localhost:8080:80", False), ("localhost@evil.example", False), ("[::1", False), ("::1", False),
    ],
)  # fmt: skip
def test_only_names_that_cannot_be_anothers_are_answered(host: str, allowed: bool) -> None:
    assert host_allowed(host, ["shop.example"]) is allowed


def test_another_host_is_refused_for_every_path(client) -> None:
    for path in ("/", "/console.js", "/events", "/picture.json", "/none"):
        assert client.get(path, headers={"Host": "evil.example:8080"}).status_code == 403, path


def test_it_is_to_be_read_only_and_lets_no_other_page_in(client) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.request(method, "/picture.json").status_code == 405
    answer = client.get("/", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/../../etc/passwd").status_code == 404


def _picture(client, wanted) -> dict[str, Any]:
    """The first picture of which ``wanted`` is true."""
    give_up_s = time.monotonic() + 20
    while time.monotonic() < give_up_s:
        answer = client.get("/picture.json")
        if answer.status_code == 200 and wanted(answer.json()):
            return answer.json()
        time.sleep(0.1)
    raise AssertionError(answer.text)


def test_a_node_that_does_not_answer_is_down(client) -> None:
    picture = _picture(client, lambda picture: True)
    (node,) = picture["nodes"]
    assert (node["state"], node["reason"], node["tier"]) == ("down", "unavailable", "127.0.0.1:9")
    assert node["requests_per_s"] is None
    assert picture["links"] == picture["chains"] == []


def test_the_picture_shows_parts_links_and_where_time_goes(start_node, artifact) -> None:
    edge, mobile = start_node("edge"), start_node("mobile")
    placement = [
        Placed(control=mobile.address, share=Share(segments=(0, 1), forward=edge.address, label="v7")),
        Placed(control=edge.address, share=Share(segments=(1, 2))),
    ]
    deploy(artifact, "digits", placement)
    nodes = tuple(Watched(address=node.address) for node in (mobile, edge))
    spec = ConsoleSpec(nodes=nodes, every_s=0.1, window_s=5, links=load("lan").links[:1])
    x = {"x": np.ones((2, 4), np.float32)}
    with TestClient(console_app(spec), base_url="http://localhost") as client, InferenceClient(mobile.address) as asks:
        quiet = _picture(client, lambda picture: picture["chains"])
        (chain,) = quiet["chains"]
        assert (chain["active"], chain["whole"], chain["p50_s"], chain["stages"]) == (False, True, None, [])
        assert chain["steps"] == [["mobile", 0, "segment 1 of 2", True], ["edge", 1, "segment 2 of 2", True]]
        for _ in range(30):
            asks.infer("digits", x)
        busy = _picture(client, lambda picture: picture["chains"][0]["active"] and len(picture["history"]) == 1)
        (chain,), (link,) = busy["chains"], busy["links"]
        assert 0 < chain["p50_s"] <= chain["p95_s"] < 5
        assert {(stage["tier"], stage["stage"]) for stage in chain["stages"]} >= {("mobile", "head"), ("edge", "tail")}
        shares = sum(stage["mean_s"] for stage in chain["stages"])
        assert 0 < shares < 1.2 * chain["mean_s"]
        assert (link["lower"], link["upper"], link["state"]) == (0, 1, "up")
        assert link["up_bps"] > 0
        assert link["asked"] == [100e6, 100e6, 0.002]
        edge.process.kill()
        broken = _picture(client, lambda picture: picture["nodes"][1]["state"] == "down")
        assert broken["nodes"][1]["tier"] == "edge"
        assert broken["chains"][0]["whole"] is False
        assert broken["chains"][0]["steps"][1] == ["edge", 1, "segment 2 of 2", False]


def test_a_server_of_another_make_is_shown_for_what_it_tells(start_node) -> None:
    watched = ConsoleSpec(nodes=(Watched(address=start_node("<b>edge</b>").address),), every_s=0.1)
    with TestClient(console_app(watched), base_url="http://localhost") as client:
        picture = _picture(client, lambda picture: picture["nodes"][0]["state"] == "up")
    assert picture["nodes"][0]["tier"] == "<b>edge</b>"
    assert picture["chains"] == []


@pytest.mark.parametrize(
    ("metrics", "state"),
    [
        (b"\xff\xff", "odd"),
        (BytesValue(value=b"a_bucket 1").SerializeToString(), "odd"),
        (BytesValue(value=b"x" * 9_000_000).SerializeToString(), "odd"),
        (
            BytesValue(
                value=b'tierwise_link_peer_info{link="a"} 1\ntierwise_stage_seconds_count 7\n'
                b'tierwise_refusals_total 1\ntierwise_request_seconds_bucket{le="1"} 5\n'
            ).SerializeToString(),
            "up",
        ),
    ],
)
def test_a_node_that_sends_rubbish_stops_nothing(metrics: bytes, state: str) -> None:
    answers = {
        "ServerMetadata": protocol.ServerMetadataResponse(name="n", version="1").SerializeToString(),
        "RepositoryIndex": protocol.RepositoryIndexResponse(
            models=[protocol.RepositoryIndexResponse.ModelIndex(name="m", version="1", state="READY")]
        ).SerializeToString(),
        "ModelMetadata": protocol.ModelMetadataResponse(
            name="m", properties={"tierwise.forward": "a m", "tierwise.segments": "9:0 of x"}
        ).SerializeToString(),
        "Metrics": metrics,
    }
    with rubbish_node(answers) as address:
        spec = ConsoleSpec(nodes=(Watched(address=address), Watched(address="127.0.0.1:9")), every_s=0.1)
        with TestClient(console_app(spec), base_url="http://localhost") as client:
            picture = _picture(client, lambda picture: picture["nodes"][0]["state"] == state)
            later = _picture(client, lambda later: later["time_s"] > picture["time_s"] + 0.5)
    assert later["nodes"][0]["state"] == state
    assert later["chains"][0]["steps"][0][0] == later["nodes"][0]["tier"] == address


@contextlib.contextmanager
def rubbish_node(answers: dict[str, bytes]) -> Iterator[str]:
    """A server that answers these bytes, whatever it is asked."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            answer = answers.get(details.method.rpartition("/")[2])
            return None if answer is None else grpc.unary_unary_rpc_method_handler(lambda _, __: answer)

    server = grpc.server(ThreadPoolExecutor(4), handlers=(Handler(),), options=CHANNEL_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_an_applications_paths_and_fallbacks_are_seen() -> None:
    metrics, clock = ClientMetrics(), FakeClock()
    metrics.answered("split", "chosen", 0.01)
    with metrics_server("127.0.0.1:0", metrics.exposition) as address:
        watch = ClientWatch(f"http://{address}/metrics", 10, clock)
        watch.look()
        clock.sleep(1)
        for _ in range(4):
            metrics.answered("local", "fallback: deadline", 0.02)
        glance = watch.look()
    assert (glance.up, glance.path) == (True, "local")
    assert glance.answers == (("local", 4, 4), ("split", 1, 0))
    assert glance.fallbacks == (("local", "fallback: deadline", 4, 4),)
    assert watch.look().up is False


def test_an_application_cannot_send_the_console_elsewhere() -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silence."""

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        watch = ClientWatch(f"http://127.0.0.1:{server.server_port}/metrics", 10, FakeClock())
        assert watch.look().up is False
        server.shutdown()
        thread.join()
    assert asked == ["/metrics"]


def test_the_command_streams_pictures_and_ends_with_a_page_open(start) -> None:
    console = start("console", "--node", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--every", "0.1")
    with urllib.request.urlopen(f"{console.address}events", timeout=10) as stream:
        lines = [stream.readline() for _ in range(7)]
        pictures = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
        assert len(pictures) >= 2
        assert pictures[0]["time_s"] < pictures[1]["time_s"]
        console.process.terminate()
        assert console.process.wait(10) == 0
    wrong = urllib.request.Request(console.address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(wrong, timeout=2)


def test_what_is_asked_is_checked() -> None:
    with pytest.raises(InputError, match="at least one tier must have the address"):
        ConsoleSpec.of_topology(load("lan"), listen="127.0.0.1:1", clients=(), hosts=(), every_s=1.0)
    with pytest.raises(ValueError, match="every node must be named once"):
        ConsoleSpec(nodes=(Watched(address="a:1"), Watched(address="a:1")))
    asked = {"listen": "127.0.0.1:1", "hosts": (), "every_s": 1.0}
    with pytest.raises(SpecError, match=r"\$\.clients"):
        ConsoleSpec.of_topology(_addressed(load("lan")), clients=("file:///etc/passwd",), **asked)


def _addressed(topology: Topology) -> Topology:
    tiers = tuple(msgspec.structs.replace(tier, address=f"h{i}:1") for i, tier in enumerate(topology.tiers))
    return msgspec.structs.replace(topology, tiers=tiers)
