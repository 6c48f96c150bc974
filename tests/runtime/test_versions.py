"""Versions of a model, and what of them outlives a node that is killed."""

import os
import random
import signal
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

from tierwise._errors import RemoteError
from tierwise.artifact import Artifact, read_files
from tierwise.wire import InferenceClient, status_of

Inputs = dict[str, Any]
Start = Callable[..., Any]


@pytest.fixture
def wanted(chain: Artifact, other_chain: Artifact, inputs: Inputs, directly: Callable[..., Any]) -> list[bytes]:
    return [directly(artifact, inputs).tobytes() for artifact in (chain, other_chain)]


def test_versions_are_served_side_by_side_and_outlive_the_node(
    start_node: Start, tmp_path: Path, chain: Artifact, other_chain: Artifact, inputs: Inputs, wanted: list[bytes]
) -> None:
    node = start_node("v", "--repository", str(tmp_path / "kept"))
    with InferenceClient(node.unix) as client:
        client.load("m", b'{"versions": 2}', read_files(chain))
        client.load("m", b'{"versions": 2}', read_files(other_chain))
    node.process.terminate()
    node.process.wait(10)
    with InferenceClient(start_node("w", "--repository", str(tmp_path / "kept")).unix) as client:
        told = client.model_metadata("m")
        assert told.versions == ("1", "2")
        assert [(s.version, s.state) for s in client.index() if s.name == "m"] == [("1", "READY"), ("2", "READY")]
        answers = [client.infer("m", inputs, version=version).outputs["y"].tobytes() for version in ("1", "2", "")]
        assert answers == [wanted[0], wanted[1], wanted[1]]
        client.load("m", b'{"versions": 2}', read_files(chain))
        assert client.model_metadata("m").versions == ("2", "3")
        with pytest.raises(RemoteError, match=r"version of model 'm' must be one of 2, 3, but got '1'") as caught:
            client.infer("m", inputs, version="1")
        assert status_of(caught.value) is grpc.StatusCode.NOT_FOUND
        client.load("m", b"{}", read_files(other_chain))
        assert client.model_metadata("m").versions == ("4",)
        assert [path.name for path in sorted((tmp_path / "kept/m").iterdir())] == ["000000004", "serving.json"]


KILLED = """
import os, signal, sys
from tierwise.runtime import NodeSpec, serve
from tierwise.runtime import _shelf

point, folder, address = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

loads = 0
receive, sync, write = _shelf.receive_files, _shelf._sync, _shelf.Shelf.write

def count(directory, files):
    global loads
    loads += 1
    if loads == 2 and point == "half received":
        (directory.parent / ".half").mkdir()
        die()
    made = receive(directory, files)
    if loads == 2 and point == "received":
        die()
    return made

def record(shelf, serving):
    if loads == 2 and point == "loaded":
        die()
    if loads == 2 and point == "half recorded":
        (shelf.folder / ".serving.json").write_bytes(b'{"kept": [1')
        die()
    write(shelf, serving)
    if loads == 2 and point == "recorded":
        die()

_shelf.receive_files, _shelf.Shelf.write = count, record
serve(NodeSpec(listen=(address,), repository=folder, threads=1))
"""


@pytest.mark.parametrize("point", ["half received", "received", "loaded", "half recorded", "recorded"])
def test_killed_at_any_point_of_a_load_it_serves_the_old_or_the_new(
    point: str,
    start_node: Start,
    tmp_path: Path,
    chain: Artifact,
    other_chain: Artifact,
    inputs: Inputs,
    wanted: list[bytes],
) -> None:
    folder, address = str(tmp_path / "kept"), f"unix:{tmp_path}/s"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, point, folder, address], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert " ready on " in process.stdout.readline()
        with InferenceClient(address) as client:
            client.load("m", None, read_files(chain))
            with pytest.raises(RemoteError):
                client.load("m", None, read_files(other_chain))
        assert process.wait(10) == -signal.SIGKILL
    with InferenceClient(start_node("again", "--repository", folder).unix) as client:
        assert client.infer("m", inputs).outputs["y"].tobytes() == wanted[point == "recorded"]
        left = [path.name for path in sorted((tmp_path / "kept/m").iterdir())]
        assert left == [f"{1 + (point == 'recorded'):09d}", "serving.json"]


def test_killed_at_random_no_acknowledged_load_is_lost(
    start_node: Start, tmp_path: Path, chain: Artifact, other_chain: Artifact, inputs: Inputs, wanted: list[bytes]
) -> None:
    rng, files, at = random.Random(5), [read_files(chain), read_files(other_chain)], 0
    node = start_node("r", "--repository", str(tmp_path / "kept"))
    with InferenceClient(node.unix) as client:
        client.load("m", None, files[at])
    for _ in range(3):
        done = []

        def load(address: str = node.unix, done: list[int] = done, new: int = 1 - at) -> None:
            with InferenceClient(address) as client:
                try:
                    client.load("m", None, files[new])
                    done.append(new)
                except RemoteError:
                    pass

        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(node.process.pid, signal.SIGKILL)
        thread.join()
        node = start_node("r", "--repository", str(tmp_path / "kept"))
        with InferenceClient(node.unix) as client:
            answer = client.infer("m", inputs).outputs["y"].tobytes()
        assert answer in wanted
        assert not done or answer == wanted[done[0]]
        at = wanted.index(answer)


def test_what_cannot_be_served_again_is_said_and_the_rest_is(
    start_node: Start, tmp_path: Path, chain: Artifact, inputs: Inputs
) -> None:
    node = start_node("x", "--repository", str(tmp_path / "kept"))
    with InferenceClient(node.unix) as client:
        for name in ("good", "bad"):
            client.load(name, None, read_files(chain))
    node.process.terminate()
    node.process.wait(10)
    broken = tmp_path / "kept/bad/000000001/segments/0.onnx"
    broken.write_bytes(b"X" + broken.read_bytes()[1:])
    with InferenceClient(start_node("y", "--repository", str(tmp_path / "kept")).unix) as client:
        assert np.isfinite(client.infer("good", inputs).outputs["y"]).all()
        (bad,) = [status for status in client.index() if status.name == "bad"]
        assert (bad.state, "the content must be" in bad.reason) == ("UNAVAILABLE", True)
        client.load("bad", None, read_files(chain))
        assert client.model_ready("bad")
