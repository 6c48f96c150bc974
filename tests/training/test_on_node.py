"""Training beside serving: real nodes, asked over gRPC and REST, and killed at random moments."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tierwise._errors import RemoteError
from tierwise.artifact import Artifact, Preprocessor, read_files, to_payload, write_artifact
from tierwise.cli import main
from tierwise.training import Feed, TrainingSession, read_folder
from tierwise.training._tensor_file import read_tensors
from tierwise.wire import InferenceClient, TrainingClient, TrainingOrder, TrainingStatus, new_token

_RNG = np.random.default_rng(5)
X = {"input": _RNG.standard_normal((2, 3, 13, 13)).astype(np.float32)}
Y = np.array([1, 3])
FAST = TrainingOrder(share_frac=1.0)
WEIGHTS = "tierwise.weights"


Start = Callable[..., Any]


def load(node: Any, artifact: Artifact) -> None:
    with InferenceClient(node.unix) as client:
        client.load("m", None, read_files(artifact))


def until(client: TrainingClient, true: Callable[[TrainingStatus], bool], wait_s: float = 60.0) -> TrainingStatus:
    end_s = time.monotonic() + wait_s
    while time.monotonic() < end_s:
        status = client.status("m")
        assert status.state != "failed", status
        if true(status):
            return status
        time.sleep(0.05)
    raise AssertionError(status)


def post(url: str, body: bytes = b"", token: str | None = None) -> Any:
    """The answer, or the status of a refusal."""
    said = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, body, said, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_batches_of_a_client_teach_what_a_session_learns(start: Start, small: Artifact) -> None:
    node, session = start(), TrainingSession(small)
    load(node, small)
    with TrainingClient(node.unix) as client, InferenceClient(node.unix) as asker:
        assert WEIGHTS not in asker.infer("m", X).parameters
        assert client.begin("m", FAST).state == "running"
        taken = [client.batch("m", X, Y, step) for step in range(3)]
        taken += client.batches("m", [(X, Y)] * 4, 3)
        assert [one.steps for one in taken] == [1, 2, 3, 4, 5, 6, 7]
        assert [one.loss for one in taken] == [session.step(X, Y) for _ in range(7)]
        before = asker.infer("m", X)
        assert WEIGHTS not in before.parameters
        label = client.swap("m").weights
        after = asker.infer("m", X)
        assert after.parameters[WEIGHTS] == label == asker.model_metadata("m").properties[WEIGHTS]
        assert label.endswith("/7")
        np.testing.assert_allclose(after.outputs["logits"], session.predict(X), rtol=1e-4, atol=1e-5)
        assert np.abs(after.outputs["logits"] - before.outputs["logits"]).max() > 1e-3
        stopped = client.stop("m")
        assert (stopped.state, stopped.progress.steps, stopped.progress.saved_steps) == ("stopped", 7, 7)
        assert asker.infer("m", X).parameters[WEIGHTS] == label
        assert client.begin("m", FAST).progress.steps == 7
        with pytest.raises(RemoteError, match="once at a time"):
            client.begin("m", FAST)
    # The node itself needs neither the engine's training half nor its library.
    maps = Path(f"/proc/{node.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "safetensors" not in maps
    assert "torch" not in maps


def test_wrong_batches_are_refused_and_change_nothing(start: Start, small: Artifact, tmp_path: Path) -> None:
    node = start()
    manifest = msgspec.structs.replace(small.manifest, training=msgspec.UNSET)
    files = {segment.file: small.path(segment.file).read_bytes() for segment in small.manifest.segments}
    load(node, write_artifact(tmp_path / "fixed", manifest, files))
    with (
        TrainingClient(node.unix) as client,
        pytest.raises(RemoteError, match=r"FAILED_PRECONDITION.*training step"),
    ):
        client.begin("m")
    load(node, small)
    with TrainingClient(node.unix) as client:
        with pytest.raises(RemoteError, match="NOT_FOUND"):
            client.batch("m", X, Y)
        with pytest.raises(RemoteError, match="allowed a folder"):
            client.begin("m", TrainingOrder(folder="today"))
        client.begin("m", TrainingOrder(share_frac=1.0, steps=1))
        cases = [
            (X, Y, 5, "of the next step"),
            (X, np.array([0.5, 1.0]), None, "whole numbers"),
            (X, np.array([0, 9]), None, "labels must be in"),
            ({"input": X["input"][:1]}, Y[:1], None, "must have 2 items"),
            ({"input": X["input"][:, :2]}, Y, None, "must hold FP32"),
            ({"other": X["input"]}, Y, None, "must hold the tensors"),
            ({"input": X["input"] * np.nan}, Y, None, "stay finite"),
        ]
        for inputs, labels, step, text in cases:
            with pytest.raises(RemoteError, match=f"INVALID_ARGUMENT.*{text}"):
                client.batch("m", inputs, labels, step)
        assert client.status("m").progress.steps == 0
        assert client.batch("m", X, Y).steps == 1
        assert client.status("m").state == "done"
        with pytest.raises(RemoteError, match="must end behind 1 steps"):
            client.batch("m", X, Y)
        assert client.status("m").restarts == 0


def test_swaps_fail_no_request_and_every_answer_says_its_weights(start: Start, small: Artifact) -> None:
    node, session = start(), TrainingSession(small)
    load(node, small)
    wanted = {0: session.predict(X)}
    for step in range(1, 41):
        session.step(X, Y, 0.01)
        wanted[step] = session.predict(X)
    seen: list[tuple[int, np.ndarray[Any, Any]]] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def ask() -> None:
        with InferenceClient(node.unix) as asker:
            while not over.is_set():
                try:
                    got = asker.infer("m", X)
                except BaseException as error:
                    failed.append(error)
                    raise
                label = str(got.parameters.get(WEIGHTS, "/0"))
                seen.append((int(label.split("/")[1]), got.outputs["logits"]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    with TrainingClient(node.unix) as client:
        client.begin("m", TrainingOrder(share_frac=1.0, swap_every=2, rate=0.01))
        for thread in threads:
            thread.start()
        list(client.batches("m", [(X, Y)] * 40))
        over.set()
        for thread in threads:
            thread.join()
        assert client.status("m").weights.endswith("/40")
    assert not failed
    assert len({steps for steps, _ in seen}) >= 3
    for steps, logits in seen:
        np.testing.assert_allclose(logits, wanted[steps], rtol=1e-3, atol=1e-4)


def test_a_delta_of_one_node_makes_another_answer_the_same(start: Start, small: Artifact, tmp_path: Path) -> None:
    one, other = start(), start("--repository", str(tmp_path / "kept"))
    for node in (one, other):
        load(node, small)
    with TrainingClient(one.unix) as teacher, TrainingClient(other.unix) as pupil:
        teacher.begin("m", FAST)
        list(teacher.batches("m", [(X, Y)] * 3))
        label, delta = teacher.swap("m").weights, teacher.export_delta("m")
        pupil.begin("m", FAST)
        with pytest.raises(RemoteError, match=r"INVALID_ARGUMENT.*safetensors"):
            pupil.apply_delta("m", delta[:-1])
        applied = pupil.apply_delta("m", delta)
    assert applied.weights.split("/")[0] == label.split("/")[0]
    other.kill()
    again = start("--repository", str(tmp_path / "kept"))
    with InferenceClient(one.unix) as left, InferenceClient(again.unix) as right:
        answers = [client.infer("m", X) for client in (left, right)]
    assert answers[1].parameters[WEIGHTS] == applied.weights
    np.testing.assert_array_equal(*(answer.outputs["logits"] for answer in answers))


def folder_order(**more: Any) -> TrainingOrder:
    return TrainingOrder(share_frac=1.0, folder="today", steps=200, checkpoint_every=7, seed=4, **more)


@pytest.fixture(scope="module")
def course(painter: Artifact, album: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What 200 uninterrupted steps over the album make, in this process."""
    session, encoding = TrainingSession(painter), painter.manifest.input
    items, labels = read_folder(album / "today", painter.manifest.labels, encoding)
    prepare, feed = Preprocessor(encoding, painter.directory), Feed(len(items), 2, 4)
    for step in range(200):
        chosen = feed.indices(step)
        session.step(prepare(to_payload(encoding, [items[i] for i in chosen])), labels[chosen])
    return session.trained()


def same_weights(client: TrainingClient, wanted: dict[str, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    (tmp_path / "delta").write_bytes(client.export_delta("m"))
    got, _ = read_tensors(tmp_path / "delta")
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(got[name], tensor)


def test_kills_of_the_trainer_change_nothing_and_fail_no_request(
    start: Start, painter: Artifact, album: Path, course: dict[str, Any], tmp_path: Path
) -> None:
    node = start("--training-folder", str(album))
    load(node, painter)
    picture = np.array([[(album / "today/c0/0.png").read_bytes()]], object)
    rng, kills, target = random.Random(1), 0, 5
    with TrainingClient(node.unix) as client, InferenceClient(node.unix) as asker:
        client.begin("m", folder_order(swap_every=20))
        while (status := client.status("m")).state != "done":
            assert status.state != "failed", status
            if kills < 4 and status.state == "running" and target <= status.progress.steps < 190:
                time.sleep(rng.uniform(0, 0.1))
                target = status.progress.steps + rng.randrange(1, 60)
                for number in node.children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)
                        kills += 1
            asker.infer("m", {"payload": picture})
            time.sleep(0.02)
        assert kills >= 2
        assert 1 <= status.restarts <= kills
        assert status.weights.endswith("/200")
        same_weights(client, course, tmp_path)


def test_kills_of_the_whole_node_change_nothing(
    start: Start, painter: Artifact, album: Path, course: dict[str, Any], tmp_path: Path
) -> None:
    options = ("--training-folder", str(album), "--repository", str(tmp_path / "kept"))
    node, rng, steps = start(*options), random.Random(2), []
    load(node, painter)
    with TrainingClient(node.unix) as client:
        client.begin("m", folder_order(swap_every=50, feature_cache_bytes=1 << 20))
    for _ in range(3):
        with TrainingClient(node.unix) as client:
            status = until(client, lambda now: now.state != "restarting" and now.progress.steps > 0)
            steps.append(status.progress.steps)
        time.sleep(rng.uniform(0, 0.2))
        trainers = node.children()
        node.kill()
        node = start(*options)
        # Nobody trains on without a node.
        assert not any(Path(f"/proc/{number}/exe").exists() for number in trainers)
    with TrainingClient(node.unix) as client:
        until(client, lambda now: now.state == "done")
        same_weights(client, course, tmp_path)
        assert client.status("m").weights.endswith("/200")
    assert steps == sorted(steps)


def test_a_folder_must_be_below_the_allowed_one_and_stay_as_it_is(
    start: Start, painter: Artifact, album: Path, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "inside", album / "today"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    shutil.copytree(outside, inside / "own")
    node = start("--training-folder", str(inside))
    load(node, painter)
    with TrainingClient(node.unix) as client:
        for name in ("link", str(outside), "../" + album.name + "/today", "none", "a\0b"):
            with pytest.raises(RemoteError, match=r"INVALID_ARGUMENT.*below the node's training folder"):
                client.begin("m", TrainingOrder(folder=name))
        client.begin("m", TrainingOrder(folder="own", lean=True))
        shutil.copy(inside / "own/c0/0.png", inside / "own/c0/more.png")
        for number in node.children():
            os.kill(number, signal.SIGKILL)
        while (status := client.status("m")).state != "failed":
            time.sleep(0.05)
        assert "must be the same" in status.reason
        assert client.begin("m", TrainingOrder(folder="own")).state == "running"


@pytest.mark.emulation
def test_training_keeps_to_its_share(start: Start, painter: Artifact, album: Path) -> None:
    node = start("--training-folder", str(album))
    load(node, painter)
    with TrainingClient(node.unix) as client:
        client.begin("m", TrainingOrder(share_frac=0.2, folder="today"))
        time.sleep(4)
        progress = client.status("m").progress
        client.stop("m")
    assert progress.steps > 3
    assert 0.02 < progress.used_frac < 0.22


def test_a_new_version_ends_the_training_of_the_old(start: Start, small: Artifact, tmp_path: Path) -> None:
    node = start("--repository", str(tmp_path / "kept"))
    load(node, small)
    with TrainingClient(node.unix) as client, InferenceClient(node.unix) as asker:
        client.begin("m", FAST)
        client.batch("m", X, Y)
        client.swap("m")
        assert len(node.children()) == 1
        load(node, small)
        assert node.children() == []
        assert WEIGHTS not in asker.infer("m", X).parameters
        with pytest.raises(RemoteError, match="NOT_FOUND"):
            client.status("m")
        client.begin("m", FAST)
        client.batch("m", X, Y)
        label = client.swap("m").weights
        asker.unload("m")
        assert node.children() == []
        asker.load("m")
        assert asker.infer("m", X).parameters[WEIGHTS] == label
        assert client.begin("m", FAST).progress.steps == 1
    assert [path.name for path in sorted((tmp_path / "kept/m").iterdir())] == ["000000002", "serving.json", "training"]


def test_rest_trains_and_asks_who_wants_to(start: Start, small: Artifact, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    asker, trainer, admin = (new_token(tokens, scope, scope) for scope in ("infer", "train", "admin"))
    config = tmp_path / "node.toml"
    config.write_text(f'[security]\ntokens = "{tokens}"\nlocal = "token"\n')
    node = start("--config", str(config), "--rest", "127.0.0.1:0")
    base = f"{node.rest}/v2/models/m/training"
    files = {f"file:1/{name}": content for name, content in read_files(small).items()}
    pushed = {"parameters": {name: base64.b64encode(content).decode() for name, content in files.items()}}
    post(f"{node.rest}/v2/repository/models/m/load", json.dumps(pushed).encode(), admin)
    for token, status in ((None, 401), (asker, 403)):
        assert post(f"{base}/begin", b"{}", token) == status
    assert post(f"{node.rest}/v2/repository/models/m/unload", b"", trainer) == 403
    assert post(f"{base}/begin", b'{"share_frac": 1.0}', trainer)["state"] == "running"
    batch = {
        "inputs": [
            {"name": "input", "datatype": "FP32", "shape": [2, 3, 13, 13], "data": X["input"].ravel().tolist()},
            {"name": "labels", "datatype": "INT64", "shape": [2], "data": Y.tolist()},
        ],
        "parameters": {"tierwise.step": 0},
    }
    wanted = TrainingSession(small).step(X, Y)
    assert post(f"{base}/batch", json.dumps(batch).encode(), trainer)["loss"] == pytest.approx(wanted, rel=1e-6)
    assert post(f"{base}/swap", b"", trainer)["weights"].endswith("/1")
    request = urllib.request.Request(f"{base}/delta", headers={"authorization": f"Bearer {trainer}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        delta = answer.read()
    assert post(f"{base}/delta", delta, trainer)["progress"]["steps"] == 0
    assert post(f"{base}/stop", b"", trainer)["state"] == "stopped"
    assert post(f"{base}/begin", b'{"share_frac": 2}', trainer) == 400


def test_the_command_line_trains_on_a_node(
    start: Start, painter: Artifact, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = start("--training-folder", str(album))
    main(["artifact", "push", str(painter.directory), node.unix, "m"])
    assert f"{node.unix} serves m" in capsys.readouterr().out

    def tierwise(verb: str, *options: str) -> str:
        main(["train", verb, node.unix, "m", *options])
        return capsys.readouterr().out

    assert "m 1: " in tierwise("start", "--folder", "today", "--steps", "5", "--share", "1")
    with TrainingClient(node.unix) as client:
        until(client, lambda now: now.state == "done")
    assert "5 steps (5 saved), weights served: those of the artifact" in tierwise("status")
    tierwise("delta", "-o", str(tmp_path / "d"))
    assert "/0" in tierwise("delta", "--apply", str(tmp_path / "d"))
    assert "stopped" in tierwise("stop")
