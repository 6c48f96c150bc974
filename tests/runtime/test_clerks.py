"""Requests that no thread waits with: computed in their turn, together with others, and answered once each."""

import http.client
import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tierwise._clock import SystemClock
from tierwise.artifact import Artifact
from tierwise.runtime import Batching, Placed, Share, deploy
from tierwise.runtime._clerks import Clerks, Stay
from tierwise.runtime._line import Line, Ticket
from tierwise.wire import InferenceClient

Tensors = dict[str, npt.NDArray[Any]]


def asked(tensors: Tensors) -> tuple[bytes, dict[str, str]]:
    heads = [
        {"name": name, "datatype": "FP32", "shape": a.shape, "parameters": {"binary_data_size": a.nbytes}}
        for name, a in tensors.items()
    ]
    head = json.dumps({"inputs": heads}).encode()
    return head + b"".join(a.tobytes() for a in tensors.values()), {"Inference-Header-Content-Length": str(len(head))}


class Rest:
    """A client over REST on one connection."""

    def __init__(self, address: str) -> None:
        self._host = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)

    def ask(self, model: str, tensors: Tensors) -> tuple[int, Any]:
        """Status and body."""
        body, headers = asked(tensors)
        self._host.request("POST", f"/v2/models/{model}/infer", body, headers)
        answer = self._host.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        """Hang up."""
        self._host.close()


@pytest.mark.parametrize("batching", [None, Batching(most_items=8)], ids=["alone", "batched"])
def test_both_fronts_at_once_are_answered_once_each_and_rightly(
    start_node: Callable[..., Any],
    chain: Artifact,
    directly: Callable[[Artifact, Tensors], npt.NDArray[Any]],
    batching: Batching | None,
) -> None:
    node = start_node("both", "--rest", "127.0.0.1:0", "--threads", "1")
    deploy(chain, "m", [Placed(control=node.tcp, share=Share(batching=batching))])
    rng = np.random.default_rng(1)
    given = [{s.name: rng.normal(size=(1, *s.shape[1:])).astype(np.float32) for s in _inputs(chain)} for _ in range(8)]
    expected = [directly(chain, tensors) for tensors in given]
    bad = {name: array[..., :1] for name, array in given[0].items()}
    told: Counter[str] = Counter()
    mutex = threading.Lock()

    def note(what: str) -> None:
        with mutex:
            told[what] += 1

    def over_rest(number: int) -> None:
        client = Rest(node.rest)
        for i in range(40):
            at = (number + i) % 8
            status, answer = client.ask("m", bad if i % 10 == 9 else given[at])
            if status == 200:
                right = np.allclose(np.ravel(answer["outputs"][0]["data"]), expected[at].ravel(), atol=1e-5)
                note("right" if right else "wrong")
            else:
                note(f"{status}")
        client.close()

    def over_grpc(number: int) -> None:
        with InferenceClient(node.tcp) as client:
            for i in range(40):
                at = (number + i) % 8
                right = np.allclose(client.infer("m", given[at]).outputs["y"], expected[at], atol=1e-5)
                note("right" if right else "wrong")

    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(over_rest if i % 3 else over_grpc, i) for i in range(12)]:
            done.result()
    assert told == {"right": 4 * 40 + 8 * 36, "400": 8 * 4}
    with urllib.request.urlopen(f"{node.rest}/v2/models/m/stats") as answer:
        counted = json.load(answer)["model_stats"][0]["inference_stats"]
    assert (counted["success"]["count"], counted["fail"]["count"]) == (told["right"], told["400"])


def _inputs(artifact: Artifact) -> Any:
    return artifact.manifest.input.tensors  # type: ignore[union-attr]


def test_a_request_that_was_submitted_has_its_turn_in_order_and_keeps_no_thread() -> None:
    line, ended = Line(1, SystemClock()), []

    def end(stay: Stay, ticket: Ticket) -> None:
        assert ticket.leads
        ended.append((stay, threading.current_thread().name))
        line.leave(ticket)
        if len(ended) == 3:
            all_ended.set()

    clerks, all_ended = Clerks(1, end), threading.Event()
    stays: list[Any] = [object() for _ in range(3)]
    with line.turn(Ticket()):
        for stay, priority in zip(stays, (3, 2, 2), strict=True):
            line.join(Ticket(priority=priority, told=clerks.teller(stay)))
        assert len(line) == 3
        assert ended == []
    assert all_ended.wait(10)
    assert ended == [(stays[1], "clerk"), (stays[2], "clerk"), (stays[0], "clerk")]
    clerks.close()
