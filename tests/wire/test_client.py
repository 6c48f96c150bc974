import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import psutil
import pytest

from tierwise._errors import RemoteError
from tierwise.wire import METHODS, InferenceClient, infer_response, status_of

INPUTS = {"x": np.zeros((1, 2), dtype=np.float32)}


@contextmanager
def serving(**methods: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[str]:
    """A server of raw messages that answers only ``methods``."""
    server = grpc.server(ThreadPoolExecutor(2))
    routes = {name: grpc.unary_unary_rpc_method_handler(behaviour) for name, behaviour in methods.items()}
    service = METHODS["ModelInfer"][0].split("/")[1]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, routes),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def unused_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_sizes_are_those_of_the_messages() -> None:
    seen: list[int] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(len(request))
        response = infer_response("m", "", {"y": np.arange(3, dtype=np.int64)})
        response.message.parameters["p"].double_param = 0.5
        seen.append(len(response.encode()))
        return response.encode()

    with serving(ModelInfer=answer) as address, InferenceClient(address) as client:
        inference = client.infer("m", INPUTS)
    assert inference.outputs["y"].tolist() == [0, 1, 2]
    assert inference.parameters == {"p": 0.5}
    assert [inference.sent_bytes, inference.received_bytes] == seen


def test_nobody_there() -> None:
    address = unused_address()
    with InferenceClient(address) as client:
        assert not client.live()
        assert not client.live(wait_s=0.2)
        with pytest.raises(RemoteError, match=f"{address}: .*ModelInfer for model 'm'.*UNAVAILABLE") as caught:
            client.infer("m", INPUTS)
    assert status_of(caught.value) is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(RemoteError, match="open client"):
        client.index()


def test_the_servers_words_arrive() -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no such model")

    with serving(ModelInfer=refuse) as address, InferenceClient(address) as client:
        assert not client.live()
        with pytest.raises(RemoteError, match=r"but got NOT_FOUND: there is no such model\.$") as caught:
            client.infer("m", INPUTS)
        assert status_of(caught.value) is grpc.StatusCode.NOT_FOUND
        with pytest.raises(RemoteError, match=r"UNIMPLEMENTED.*must speak this part"):
            client.index()


def test_too_slow_an_answer() -> None:
    def sleep(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(0.5)
        return b""

    slow = pytest.raises(RemoteError, match="DEADLINE_EXCEEDED")
    with serving(ModelInfer=sleep) as address, InferenceClient(address) as client, slow:
        client.infer("m", INPUTS, timeout_s=0.1)


def test_an_answer_with_broken_tensors_is_the_servers_fault() -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        response = infer_response("m", "", {"y": np.arange(3, dtype=np.int64)})
        response.contents = (b"short",)
        return response.encode()

    broken = pytest.raises(RemoteError, match=r"127\.0\.0\.1:\d+: the answer of model 'm'.*24 bytes")
    with serving(ModelInfer=answer) as address, InferenceClient(address) as client, broken:
        client.infer("m", INPUTS)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
def test_a_connection_over_a_silent_link_does_not_wait_for_ever() -> None:
    """What is not acknowledged ends it after five seconds; the system would try for a quarter of an hour."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return infer_response("m", "", {"y": np.zeros(1, np.float32)}).encode()

    with serving(ModelInfer=answer) as address, InferenceClient(address) as client:
        client.infer("m", INPUTS)
        found = []
        # Only that connection: others of this process (a browser's, say) must be left alone.
        port = int(address.rpartition(":")[2])
        for one in psutil.Process().net_connections(kind="tcp"):
            if one.raddr and one.raddr.port == port:
                with socket.socket(fileno=os.dup(one.fd)) as connection:
                    found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    assert found == [5000]
