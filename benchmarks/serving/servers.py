"""The servers that are compared: how each is installed, started, asked, and what its answer must hold."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import psutil
from load import Call
from models import INPUT, OUTPUT, Subject, to_artifact

from tierwise._errors import RemoteError
from tierwise.runtime import Batching, Placed, Share, deploy
from tierwise.wire import InferenceClient, decode_response, infer_request

__all__ = ["PEERS", "Running", "Way", "install", "tierwise_node"]

HERE = Path(__file__).resolve().parent
# Where a server batches, it may take so many requests at once.
BATCH = 16
_READY_S = 90.0
_INFER = "/inference.GRPCInferenceService/ModelInfer"


@final
@dataclass(frozen=True)
class Way:
    """One way to ask a running server.

    Attributes:
        protocol: What is spoken.
        call: The request.
        read: The output in the body of an answer.
    """

    protocol: str
    call: Call
    read: Callable[[bytes], npt.NDArray[np.float32]]


@final
@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        name: Which one, and how it batches.
        ways: How it can be asked.
        started_s: Seconds from starting the process to the first answer.
        resident_bytes: Resident memory of all its processes after the first answer.
        empty_bytes: The same before the model came, where the server can be without one.
    """

    name: str
    ways: tuple[Way, ...]
    started_s: float
    resident_bytes: int
    empty_bytes: int | None = None


@final
@dataclass(frozen=True)
class Peer:
    """A server of others.

    Attributes:
        name: Its name, and the package that is installed.
        command: From (bin folder, subject, port, further ports, batch, scratch folder) to (command, environment).
        ways: From (subject, port, further port) to the ways it can be asked.
    """

    name: str
    command: Callable[[Path, Subject, int, int, int, Path], tuple[list[str], Mapping[str, str]]]
    ways: Callable[[Subject, int, int], tuple[Way, ...]]
    packages: tuple[str, ...] = field(default=())

    @contextlib.contextmanager
    def run(self, home: Path, subject: Subject, batch: int, scratch: Path, prefix: list[str]) -> Iterator[Running]:
        """Start it, wait for its first right answer, and stop it at the end.

        Raises:
            RuntimeError: It gave no right answer in time.
        """
        port, other = _free_ports(2)
        command, environment = self.command(home / self.name / "bin", subject, port, other, batch, scratch)
        started_s = time.perf_counter()
        with _process([*prefix, *command], environment, scratch / f"{self.name}-{batch}.log") as process:
            ways = self.ways(subject, port, other)
            _wait(process, ways[0], subject, started_s)
            took_s = time.perf_counter() - started_s
            for way in ways[1:]:
                _wait(process, way, subject, started_s)
            label = self.name if batch == 1 else f"{self.name}, batching"
            yield Running(label, ways, took_s, _resident(process.pid))


def install(peer: Peer, home: Path) -> str | None:
    """Put a peer into a virtual environment of its own; why that failed, or None."""
    done = home / peer.name / "installed"
    if done.exists():
        return None
    home.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(home / peer.name)],
        [str(home / peer.name / "bin" / "python"), "-m", "pip", "install", "--quiet", peer.name, *peer.packages],
    ):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else "pip said nothing"
    done.touch()
    return None


@contextlib.contextmanager
def tierwise_node(subject: Subject, batch: int, scratch: Path, prefix: list[str]) -> Iterator[Running]:
    """Our node, without options but its addresses; it is told only whether the model may batch."""
    port, rest = _free_ports(2)
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "tierwise", "node", "--listen", address, "--rest", f"127.0.0.1:{rest}"]
    started_s = time.perf_counter()
    with _process([*prefix, *command, "--threads", "1"], {}, scratch / f"tierwise-{batch}.log") as process:
        with InferenceClient(address) as client:
            while not _answers(client.live):
                _alive(process, started_s)
                time.sleep(0.005)
        live_s, empty_bytes = time.perf_counter() - started_s, _resident(process.pid)
        batching = Batching(most_items=batch) if batch > 1 else None
        artifact = to_artifact(subject, scratch / f"artifact-{port}")
        deploy(artifact, subject.name, [Placed(control=address, share=Share(batching=batching))])
        ways = (_grpc(subject, port), _binary_rest(subject, rest), _json_rest(subject, rest))
        for way in ways:
            _wait(process, way, subject, started_s)
        label = "tierwise" if batch == 1 else "tierwise, batching"
        yield Running(label, ways, live_s, _resident(process.pid), empty_bytes)


def _answers(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except RemoteError:
        return False


def _grpc(subject: Subject, port: int) -> Way:
    message = infer_request(subject.name, {INPUT: subject.request}).encode()

    def read(body: bytes) -> npt.NDArray[np.float32]:
        return decode_response(body[5:]).tensors()[OUTPUT]  # five bytes of gRPC's frame come first

    headers = ("content-type: application/grpc", "te: trailers")
    call = Call(
        f"http://127.0.0.1:{port}{_INFER}", b"\0" + struct.pack(">I", len(message)) + message, headers, http1=False
    )
    return Way("gRPC", call, read)


def _json_rest(subject: Subject, port: int) -> Way:
    data = subject.request.ravel().tolist()
    tensor = {"name": INPUT, "datatype": "FP32", "shape": subject.request.shape, "data": data}
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()

    def read(body: bytes) -> npt.NDArray[np.float32]:
        output = json.loads(body)["outputs"][0]
        return np.asarray(output["data"], np.float32).reshape(output["shape"])

    url = f"http://127.0.0.1:{port}/v2/models/{subject.name}/infer"
    return Way("REST, JSON", Call(url, body, ("content-type: application/json",), http1=True), read)


def _binary_rest(subject: Subject, port: int) -> Way:
    raw = subject.request.tobytes()
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": INPUT, "datatype": "FP32", "shape": subject.request.shape, "parameters": parameters}
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(asked, separators=(",", ":")).encode()

    def read(body: bytes) -> npt.NDArray[np.float32]:
        described, end = json.JSONDecoder().raw_decode(body[: body.rindex(b"}") + 1].decode("latin-1"))
        return np.frombuffer(body[end:], np.float32).reshape(described["outputs"][0]["shape"])

    url = f"http://127.0.0.1:{port}/v2/models/{subject.name}/infer"
    headers = ("content-type: application/octet-stream", f"Inference-Header-Content-Length: {len(header)}")
    return Way("REST, binary", Call(url, header + raw, headers, http1=True), read)


def _plain_json(subject: Subject, port: int, read: Callable[[bytes], npt.NDArray[np.float32]]) -> Way:
    body = json.dumps({INPUT: subject.request.tolist()}, separators=(",", ":")).encode()
    call = Call(f"http://127.0.0.1:{port}/predict", body, ("content-type: application/json",), http1=True)
    return Way("HTTP, JSON", call, read)


def _mlserver(
    bin: Path, subject: Subject, port: int, other: int, batch: int, scratch: Path
) -> tuple[list[str], Mapping[str, str]]:
    folder = scratch / f"mlserver-{port}"
    folder.mkdir()
    # Workers of their own would cost it a copy of every request to another process: one core has no use for them.
    settings = {"debug": False, "parallel_workers": 0, "host": "127.0.0.1", "http_port": port, "grpc_port": other}
    settings["metrics_port"] = _free_ports(1)[0]
    model = {
        "name": subject.name,
        "implementation": "mlserver_runtime.OnnxModel",
        "parameters": {"uri": str(subject.file)},
    }
    if batch > 1:
        model |= {"max_batch_size": batch, "max_batch_time": 0.002}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(bin / "mlserver"), "start", str(folder)], {"PYTHONPATH": str(HERE / "peers")}


def _litserve(
    bin: Path, subject: Subject, port: int, other: int, batch: int, scratch: Path
) -> tuple[list[str], Mapping[str, str]]:
    script = HERE / "peers" / "litserve_server.py"
    return [str(bin / "python"), str(script), str(subject.file), str(port), str(batch)], {}


def _bentoml(
    bin: Path, subject: Subject, port: int, other: int, batch: int, scratch: Path
) -> tuple[list[str], Mapping[str, str]]:
    command = [str(bin / "bentoml"), "serve", "bento_service:Server", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"MODEL": str(subject.file), "BATCH": str(batch), "BENTOML_DO_NOT_TRACK": "true"}
    environment |= {"BENTOML_HOME": str(scratch / "bento"), "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
    return [*command, "--working-dir", str(HERE / "peers")], environment


PEERS = (
    Peer(
        "mlserver",
        _mlserver,
        lambda subject, port, other: (_json_rest(subject, port), _grpc(subject, other)),
        ("onnxruntime",),
    ),
    Peer(
        "litserve",
        _litserve,
        lambda subject, port, _: (
            _plain_json(subject, port, lambda body: np.asarray(json.loads(body)["y"], np.float32)),
        ),
        ("onnxruntime",),
    ),
    Peer(
        "bentoml",
        _bentoml,
        lambda subject, port, _: (_plain_json(subject, port, lambda body: np.asarray(json.loads(body), np.float32)),),
        ("onnxruntime",),
    ),
)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextlib.contextmanager
def _process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **quiet, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)


def _alive(process: subprocess.Popen[bytes], started_s: float) -> None:
    if process.poll() is not None or time.perf_counter() - started_s > _READY_S:
        raise RuntimeError(f"{process.args} must answer within {_READY_S:.0f} s; see its log")


def _wait(process: subprocess.Popen[bytes], way: Way, subject: Subject, started_s: float) -> None:
    """Ask until there is an answer, and check it against ONNX Runtime itself."""
    import onnxruntime as ort

    expected = ort.InferenceSession(subject.file, providers=["CPUExecutionProvider"]).run(
        None, {INPUT: subject.request}
    )
    while (body := _once(way)) is None:
        _alive(process, started_s)
        time.sleep(0.02)
    np.testing.assert_allclose(way.read(body).reshape(expected[0].shape), expected[0], rtol=1e-4, atol=1e-5)


def _once(way: Way) -> bytes | None:
    call = way.call
    if way.protocol == "gRPC":
        import grpc

        with grpc.insecure_channel(call.url.split("/")[2]) as channel:
            try:
                answer: bytes = channel.unary_unary(_INFER)(call.body[5:], timeout=5)
            except grpc.RpcError:
                return None
        return b"\0" + struct.pack(">I", len(answer)) + answer
    headers = dict(header.split(": ", 1) for header in call.headers)
    try:
        with urllib.request.urlopen(urllib.request.Request(call.url, call.body, headers), timeout=5) as response:
            content: bytes = response.read()
            return content
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def _resident(pid: int) -> int:
    root = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))
