"""Clients of the fault benchmarks: good ones over both fronts that check each answer, and bad ones of a dozen kinds."""

from __future__ import annotations

import base64
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
import numpy as np

from tierwise._errors import RemoteError
from tierwise.artifact import MANIFEST
from tierwise.wire import METHODS, InferenceClient, infer_request, status_of

__all__ = ["BAD", "Asked", "Bad", "Caller", "GrpcCaller", "RestCaller", "Stillness", "callers", "fine"]

# What a node may say to a request that is wrong. Anything else is a failure of the node.
_REFUSED: Final = frozenset(
    {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "400", "404", "405", "413"}
)


def fine(outcome: str) -> bool:
    """Whether ``outcome`` is a refusal that says whose fault it was."""
    return outcome in _REFUSED


class Caller(Protocol):
    """A client that asks a model and gives ``y``; raises what its library raises where it gets no answer."""

    def ask(self, model: str, tensors: dict[str, Any]) -> Any:
        """The output ``y``."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class GrpcCaller:
    """Over gRPC."""

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self._client = InferenceClient(address, timeout_s)

    def ask(self, model: str, tensors: dict[str, Any]) -> Any:
        """See `Caller.ask`."""
        return self._client.infer(model, tensors).outputs["y"]

    def close(self) -> None:
        """See `Caller.close`."""
        self._client.close()


class RestCaller:
    """Over REST, on one connection that is opened again where it broke."""

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self._host = http.client.HTTPConnection(address, timeout=timeout_s)

    def ask(self, model: str, tensors: dict[str, Any]) -> Any:
        """See `Caller.ask`."""
        ((name, array),) = tensors.items()
        head = {
            "name": name,
            "datatype": "FP32",
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        try:
            self._host.request("POST", f"/v2/models/{model}/infer", text + array.tobytes(), headers)
            answer = self._host.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._host.close()
            raise
        if answer.status != 200:
            raise ConnectionError(f"{answer.status}: {body[:200]!r}")
        end = int(answer.headers["Inference-Header-Content-Length"])
        shape = json.loads(body[:end])["outputs"][0]["shape"]
        return np.frombuffer(body[end:], np.float32).reshape(shape)

    def close(self) -> None:
        """See `Caller.close`."""
        self._host.close()


@dataclass
class Asked:
    """What good clients got."""

    answered: int = 0
    wrong: int = 0
    latencies_s: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    right_at_s: float = 0.0
    left_out: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, begun_s: float, right: bool, timed: bool) -> None:
        """Count an answer that just came; its latency only where it is ``timed``."""
        with self.lock:
            self.answered += 1
            self.wrong += not right
            self.right_at_s = begun_s if right else self.right_at_s
            if timed:
                self.latencies_s.append(time.monotonic() - begun_s)

    def figures(self) -> dict[str, Any]:
        """Counts, and latencies in seconds."""
        with self.lock:
            latencies_s, failed = sorted(self.latencies_s), dict(self.failed.most_common(6))
            found = {"answered": self.answered, "wrong": self.wrong, "unanswered": sum(self.failed.values())}
        if latencies_s:
            found |= {f"p{q}_s": latencies_s[min(len(latencies_s) - 1, len(latencies_s) * q // 100)] for q in (50, 99)}
            found["longest_s"] = latencies_s[-1]
        found |= {"left_out": self.left_out} if self.left_out else {}
        return found | ({"failed": failed} if failed else {})


class Stillness:
    """Knows when this process, and with it all it started, was stopped by whoever runs the machine.

    What is asked across such a gap says nothing: clients' and node's timers ran on.
    """

    _TICK_S, _GAP_S, _AFTER_S = 0.1, 1.0, 2.0

    def __init__(self) -> None:
        self._ended_s, self._last_s, self._stop = -1e9, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self._TICK_S):
            now_s = time.monotonic()
            if now_s - self._last_s > self._GAP_S:
                self._ended_s = now_s
            self._last_s = now_s

    def spoilt(self, begun_s: float) -> bool:
        """Whether a request that was sent at ``begun_s`` and is over now was asked across a gap or soon after."""
        now_s = time.monotonic()
        if now_s - self._last_s > self._GAP_S:  # it is over, and the watch has not seen it yet
            self._ended_s = now_s
        return begun_s < self._ended_s + self._AFTER_S

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()


Check = Callable[[float, int, Any], bool]
"""Whether an answer is right: when it was asked for, number of the input, the answer."""


@contextmanager
def callers(
    make: Callable[[], Caller], model: str, inputs: list[dict[str, Any]], check: Check, rest_s: float, count: int = 1
) -> Iterator[Asked]:
    """Clients that ask ``model`` in turn with a rest of ``rest_s`` between, until the block is left."""
    asked, stop, stillness = Asked(), threading.Event(), Stillness()

    def run(seed: int) -> None:
        rng, caller = random.Random(seed), make()
        while not stop.wait(rest_s):
            number, begun_s = rng.randrange(len(inputs)), time.monotonic()
            try:
                answer = caller.ask(model, inputs[number])
            except (RemoteError, OSError, http.client.HTTPException) as error:
                told = status_of(error).name if isinstance(error, RemoteError) else str(error)[:60]
                with asked.lock:
                    if stillness.spoilt(begun_s):
                        asked.left_out += 1
                    else:
                        asked.failed[f"{type(error).__name__}: {told}"] += 1
                stop.wait(0.02)
                continue
            asked.add(begun_s, check(begun_s, number, answer), not stillness.spoilt(begun_s))
        caller.close()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        stillness.close()


class Bad:
    """Sends one bad request after the other; ``send`` says what the node made of it.

    Args:
        grpc_address: Of the node.
        rest_address: Of the node.
        model: A model it serves.
        seed: Of what is random in them.
    """

    def __init__(self, grpc_address: str, rest_address: str, model: str, seed: int) -> None:
        self.model, self.rng = model, random.Random(seed)
        self._channel = grpc.insecure_channel(grpc_address, options=(("grpc.use_local_subchannel_pool", 1),))
        self._host = http.client.HTTPConnection(rest_address, timeout=30)

    def send(self, kind: str) -> str:
        """A status' name or number; ``closed`` where the node hung up."""
        return BAD[kind](self)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
        self._host.close()

    def rest(self, verb: str, path: str, body: bytes = b"", **headers: str) -> str:
        """The status of a REST request."""
        try:
            self._host.request(verb, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            answer = self._host.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._host.close()
            return "closed"
        return str(answer.status)

    def infer(self, body: bytes, **headers: str) -> str:
        """The status of a request for inference over REST."""
        return self.rest("POST", f"/v2/models/{self.model}/infer", body, **headers)

    def load(self, parameters: dict[str, str]) -> str:
        """The status of a load over REST."""
        body = json.dumps({"parameters": parameters}).encode()
        return self.rest("POST", f"/v2/repository/models/{self.model}/load", body)

    def grpc(self, path: str, body: bytes) -> str:
        """The status of a gRPC request."""
        try:
            self._channel.unary_unary(path)(body, timeout=30)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return "OK"

    def asked(self, array: Any, model: str | None = None) -> str:
        """The status of a gRPC request for inference with ``array`` as ``x``."""
        return self.grpc(METHODS["ModelInfer"][0], infer_request(model or self.model, {"x": array}).encode())


def _json(**changes: Any) -> bytes:
    head = {"name": "x", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": [0.0] * 4} | changes
    return json.dumps({"inputs": [head]}).encode()


_GOOD = np.zeros((1, 3, 64, 64), np.float32)
_INFER = METHODS["ModelInfer"][0]

BAD: Final[dict[str, Callable[[Bad], str]]] = {
    "json cut off": lambda bad: bad.infer(_json()[: bad.rng.randrange(1, 80)]),
    "json of random bytes": lambda bad: bad.infer(bad.rng.randbytes(200)),
    "json nested 100,000 deep": lambda bad: bad.infer(b"[" * 100_000),
    "fewer values than the shape": lambda bad: bad.infer(_json()),
    "a shape of 2^60 elements": lambda bad: bad.infer(_json(shape=[1 << 20] * 3)),
    "an unknown datatype": lambda bad: bad.infer(_json(datatype="FP33")),
    "binary beyond the body": lambda bad: bad.infer(
        _json(data=None, parameters={"binary_data_size": 1 << 40}), Inference_Header_Content_Length="20"
    ),
    "an unknown model": lambda bad: bad.rest("POST", f"/v2/models/m{bad.rng.randrange(10**6)}/infer", _json()),
    "an unknown path": lambda bad: bad.rest("GET", f"/v2/{bad.rng.randbytes(8).hex()}"),
    "a load that is no base64": lambda bad: bad.load({f"file:1/{MANIFEST}": "?"}),
    "a load with a wrong manifest": lambda bad: bad.load(
        {f"file:1/{MANIFEST}": base64.b64encode(bad.rng.randbytes(60)).decode()}
    ),
    "protobuf of random bytes": lambda bad: bad.grpc(_INFER, b"\x0a\xff" + bad.rng.randbytes(200)),
    "protobuf cut off": lambda bad: bad.grpc(_INFER, infer_request(bad.model, {"x": _GOOD}).encode()[:-9000]),
    "a tensor of another shape": lambda bad: bad.asked(np.zeros((1, 3, 5), np.float32)),
    "a tensor of another type": lambda bad: bad.asked(np.zeros((1, 3, 64, 64), np.int8)),
    "an unknown gRPC model": lambda bad: bad.asked(_GOOD, "nobody"),
    "an unknown gRPC method": lambda bad: bad.grpc("/inference.GRPCInferenceService/Nothing", b""),
    "a push of random bytes": lambda bad: bad.grpc(
        METHODS["RepositoryModelLoad"][0], b"\x1a\x7f" + bad.rng.randbytes(120)
    ),
}
"""Kinds of bad requests."""
