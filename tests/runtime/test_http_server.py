"""What strangers may try beside the protocol's own words: broken framing, endless heads, answers nobody reads."""

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tierwise.runtime import _http_server
from tierwise.runtime._http_server import http_server

Start = Callable[..., Any]

POST = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\n"
ASK = b"POST /v2/models/tierwise.probe/infer HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"inputs": [{"name": "work", "datatype": "INT64", "shape": %s, "data": [1]}], "parameters": {%s}}'


@pytest.fixture(scope="module")
def node(start_node: Start) -> Any:
    return start_node("edge", "--rest", "127.0.0.1:0")


def told(address: str, pieces: Iterator[bytes] | list[bytes]) -> bytes:
    """All that is answered until the line is closed, however much of the pieces could be sent."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as one:
        one.settimeout(20)
        answer = b""
        try:
            for piece in pieces:
                one.sendall(piece)
            while part := one.recv(1 << 16):
                answer += part
        except ConnectionError:
            pass
        return answer


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
        b"Transfer-Encoding: xchunked\r\n\r\n{}",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Content-Length : 2\r\n\r\n{}",
        b"Content-Length: +2\r\n\r\n{}",
        b"X: a\r\n b\r\n\r\n",
    ],
)
def test_a_request_that_another_server_could_read_otherwise_is_refused_and_nothing_after_it_is_read(
    node: Any, framing: bytes
) -> None:
    answer = told(node.rest, [POST + framing + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/v2/models/%2e%2e%2fetc/ready", 404),
        (b"/v2/models/tierwise.probe/../../repository/index", 404),
        (b"//evil.example/v2/", 404),
        (b"/v2/models/tierwise.probe/", 404),  # no redirect, which would go where the request's own Host says
        (b"/v2/models/%ff", 404),
        (b"/v2/models/%00", 404),
        (b"/v2/models/a%0d%0aX-Evil:1", 404),
        (b"/v2/models/\xff", 400),
    ],
)
def test_a_path_is_what_it_is(node: Any, path: bytes, status: int) -> None:
    answer = told(node.rest, [b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"location" not in head.lower()
    assert b"x-evil" not in head.lower()
    assert body


@pytest.mark.parametrize(
    ("shape", "parameters", "said"),
    [
        (b"[4611686018427387904, 4611686018427387904]", b"", b"may have at most"),
        (b"[0, 4611686018427387904]", b"", b"a shape must be of at most"),
        (b"[9223372036854775808]", b"", b"<= 9223372036854775807"),
        (b"[-1]", b"", b">= 0"),
        (b"[1]", b'"timeout": NaN', b"malformed"),
        (b"[1]", b'"timeout": -5', b"timeout: the parameter must be a whole number"),
        (b"[1]", b'"timeout": 1e300', b"timeout: the parameter must be a whole number"),
        (b"[1]", b'"priority": "' + b"a" * (1 << 20) + b'"', b"priority: the parameter must be a whole number"),
        (b"[1]", b'"priority": 18446744073709551616', b"must be a flag, a number or a text"),
    ],
)
def test_numbers_without_sense_get_one_short_error(node: Any, shape: bytes, parameters: bytes, said: bytes) -> None:
    body = BODY % (shape, parameters)
    head = ASK + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = told(node.rest, [head + body])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert said in answer
    assert len(answer) < 1000


PIECE = b"a" * (1 << 14)


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2;",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: ",
    ],
)
def test_what_comes_beside_a_body_has_an_end(node: Any, begin: bytes) -> None:
    def long() -> Iterator[bytes]:
        yield begin
        time.sleep(0.3)  # what comes in one go with a body's bytes counts as read with them
        yield from [PIECE] * 5

    answer = told(node.rest, long())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"must have at most 65,536 bytes" in answer
    endless = told(node.rest, itertools.chain([begin], itertools.repeat(PIECE)))
    assert b" 200 " not in endless


def test_a_body_in_many_chunks_and_many_requests_on_a_line_are_no_long_head(node: Any) -> None:
    body = BODY.replace(b"%s", b"[1]", 1).replace(b"%s", b"") + b" " * 40_000
    chunks = [b"1\r\n%c\r\n" % byte for byte in body]
    answer = told(node.rest, [ASK + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", *chunks, b"0\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n%s\r\n"
    pad = b"X: " + b"a" * 1000 + b"\r\n"
    answer = told(node.rest, [one % pad] * 200 + [one % b"Connection: close\r\n"])
    assert answer.count(b"HTTP/1.1 200 ") == 201


def test_who_does_not_read_an_answer_is_let_go_and_who_reads_slowly_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_server, "_READ_S", 0.3)
    size, ended = 24 << 20, threading.Semaphore(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})
        ended.release()

    with http_server(app, ["127.0.0.1:0"]) as (url,):
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert ended.acquire(timeout=20)  # nothing of it is held any more
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            came = 0
            while part := slow.recv(1 << 20):
                came += len(part)
                time.sleep(0.05)
            assert came > size


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
def test_the_loop_gives_way_to_who_computes_on_a_single_core_only() -> None:
    # Cores and policy are those of one thread.
    cores = sorted(os.sched_getaffinity(0))
    seen: dict[str, int] = {}

    def run(name: str, own: list[int]) -> None:
        os.sched_setaffinity(0, own)
        _http_server._give_way()
        seen[name] = os.sched_getscheduler(0)

    for name, own in {"one": cores[:1], "all": cores}.items():
        thread = threading.Thread(target=run, args=(name, own))
        thread.start()
        thread.join()
    assert seen["one"] == os.SCHED_BATCH
    assert seen["all"] == (os.SCHED_OTHER if len(cores) > 1 else os.SCHED_BATCH)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
