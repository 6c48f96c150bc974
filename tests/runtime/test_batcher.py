import io
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tierwise._clock import SystemClock
from tierwise._errors import InputError
from tierwise.artifact import PAYLOAD_INPUT, Artifact, Preprocessor, Segment, TensorInput, TensorSpec
from tierwise.runtime import Batching, Executor
from tierwise.runtime._batcher import Batcher
from tierwise.runtime._line import Line, Ticket
from tierwise.runtime._passage import Passage
from tierwise.runtime._statistics import Counters
from tierwise.runtime._visit import Visit

Inputs = dict[str, Any]

BATCHING = Batching(budget_s=60.0, most_items=16, measure_s=0.0)


class Kitchen:
    """A batcher with all it needs, and a curve that says what the test says."""

    def __init__(self, artifact: Artifact, batching: Batching | None = BATCHING, ns: int | None = 1000) -> None:
        self.line, self.counters = Line(1, SystemClock()), Counters()
        self.executor = Executor(artifact, threads=1)
        prepare = Preprocessor(artifact.manifest.input, artifact.directory)
        self.batcher = Batcher(
            self.executor, prepare, "infer", batching, artifact.manifest.outputs, 2, self.counters, self.line
        )
        for size in (1, 2, 4, 8, 16) if ns else ():
            self.batcher.curve.learn(size, ns or 0)

    def visit(self) -> Visit:
        return Visit("t", self.line, 1.0, SystemClock())

    def together(self, requests: list[Inputs]) -> tuple[list[Any], list[Visit]]:
        """What comes of requests that all wait when the turn is free."""
        came: list[Any] = [None] * len(requests)
        visits = [self.visit() for _ in requests]

        def ask(i: int) -> None:
            try:
                came[i] = self.batcher.compute(requests[i], visits[i])
            except InputError as error:
                came[i] = error

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(requests))]
        with self.line.turn(Ticket()):
            for count, thread in enumerate(threads, 1):
                thread.start()
                while len(self.line) < count:
                    time.sleep(0.0005)
        for thread in threads:
            thread.join()
        return came, visits

    @property
    def executions(self) -> int:
        return self.counters.statistics("", "").execution_count


def requests(sizes: list[int], early: float = 0.0) -> list[Inputs]:
    rng = np.random.default_rng(3)
    made = []
    for size in sizes:
        x = rng.normal(size=(size, 4)).astype(np.float32)
        x[:, 0] = rng.random(size) < early
        made.append({"x": x, "bias": rng.normal(size=(size, 3)).astype(np.float32)})
    return made


def test_those_that_wait_are_computed_at_once_and_answered_apart(chain: Artifact) -> None:
    kitchen, asked = Kitchen(chain), requests([1, 3, 2, 1, 4])
    came, visits = kitchen.together(asked)
    assert kitchen.executions == 1
    for given, visit, tensors in zip(came, visits, asked, strict=True):
        # Other sizes may take other ways through the matrix products: equal but for the last bits.
        np.testing.assert_allclose(given.tensors["y"], kitchen.executor.run(tensors)["y"], rtol=1e-5, atol=1e-6)
        assert (visit.items, visit.batch_size) == (len(tensors["x"]), 11)
        assert [stage for _, stage, _ in visit.timeline.entries()] == ["queue", "preprocess", "infer"]
    ((size, count),) = [(b.batch_size, b.compute_infer.count) for b in kitchen.counters.statistics("", "").batches]
    assert (size, count) == (11, 1)


def test_no_more_than_most_items(chain: Artifact) -> None:
    kitchen = Kitchen(chain)
    came, visits = kitchen.together(requests([5, 5, 5, 5]))
    assert all(isinstance(given, Passage) for given in came)
    assert [visit.batch_size for visit in visits] == [15, 15, 15, 5]


def test_items_leave_early_each_from_its_own_request(exiting: Artifact) -> None:
    kitchen, asked = Kitchen(exiting), requests([1, 4, 3, 2, 3], early=0.5)
    asked[0]["x"][:, 0] = 1.0  # all of it leaves
    came, _ = kitchen.together(asked)
    assert kitchen.executions == 1
    for given, tensors in zip(came, asked, strict=True):
        alone = kitchen.executor.advance(tensors)
        np.testing.assert_array_equal(given.left, alone.left)
        assert given.left.tolist() == (tensors["x"][:, 0] >= 0.5).tolist()
        assert sorted(given.tensors) == sorted(alone.tensors)
        for name, array in alone.tensors.items():
            np.testing.assert_allclose(given.tensors[name], array, rtol=1e-5, atol=1e-6)
        if alone.left.any():
            np.testing.assert_allclose(given.answers["y"], alone.answers["y"], rtol=1e-5, atol=1e-6)


def picture(grey: int | None) -> Inputs:
    """A grey JPEG as a request; None: bytes that are no picture."""
    buffer = io.BytesIO(b"not a jpeg")
    if grey is not None:
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(buffer, "JPEG")
    column = np.empty((1, 1), dtype=object)
    column[0, 0] = buffer.getvalue()
    return {PAYLOAD_INPUT: column}


def test_one_that_is_wrong_spoils_nothing_for_the_others(picture_model: Artifact) -> None:
    kitchen = Kitchen(picture_model)
    came, _ = kitchen.together([picture(51), picture(None), picture(204)])
    assert isinstance(came[1], InputError)
    assert "payload[0]: the bytes must be a picture" in str(came[1])
    assert [round(float(came[i].tensors["y"].item()), 1) for i in (0, 2)] == [0.2, 0.8]


def test_without_batching_each_computes_alone(chain: Artifact) -> None:
    kitchen = Kitchen(chain, batching=None)
    _, visits = kitchen.together(requests([1, 1, 1]))
    assert (kitchen.executions, [visit.batch_size for visit in visits]) == (3, [1, 1, 1])


def test_where_a_batch_gains_nothing_there_is_none(chain: Artifact) -> None:
    kitchen = Kitchen(chain, ns=None)
    for size in (1, 2, 4, 8, 16):
        kitchen.batcher.curve.learn(size, size * 1_000_000_000)
    _, visits = kitchen.together(requests([1, 1, 1, 1]))
    assert visits[0].batch_size == 1


def test_a_model_with_a_fixed_batch_is_never_batched(make: Callable[..., Artifact], tmp_path: Any) -> None:
    from onnx import TensorProto, helper

    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    x, y = (TensorSpec(name=name, dtype="FP32", shape=(1, 2)) for name in "xy")
    segment = Segment(file="m.onnx", inputs=(x,), outputs=(y,), macs=1)
    kitchen = Kitchen(make(tmp_path / "fixed", [(model, segment)], TensorInput(tensors=(x,)), (y,)))
    came, _ = kitchen.together([{"x": np.full((1, 2), value, np.float32)} for value in (1, 2, 3)])
    assert kitchen.executions == 3
    assert [given.tensors["y"][0, 0] for given in came] == [1, 2, 3]


def test_who_comes_alone_never_waits(chain: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(chain)
    monkeypatch.setattr(Line, "wait_for_more", lambda *_: pytest.fail("waited"))
    for tensors in requests([1] * 50):
        kitchen.batcher.compute(tensors, kitchen.visit())
    assert kitchen.executions == 50


def test_where_the_next_comes_soon_the_first_waits_for_it(chain: Artifact) -> None:
    kitchen = Kitchen(chain, ns=4_000_000_000)  # a wait of two seconds would pay
    now_ns = SystemClock().now_ns()
    for i in range(50):
        kitchen.batcher._note_arrival(now_ns + 10_000_000 * (i - 50))
    visits, first, second = [kitchen.visit(), kitchen.visit()], *requests([1, 1])
    thread = threading.Thread(target=kitchen.batcher.compute, args=(first, visits[0]))
    thread.start()
    kitchen.batcher.compute(second, visits[1])
    thread.join()
    assert [visit.batch_size for visit in visits] == [2, 2]
    assert kitchen.executions == 1


def test_the_curve_is_measured_once_the_model_is_asked(chain: Artifact) -> None:
    kitchen = Kitchen(chain, Batching(most_items=8, measure_s=5.0), ns=None)
    kitchen.batcher.compute(requests([3])[0], kitchen.visit())
    deadline_s = time.monotonic() + 30
    while kitchen.batcher.curve.sizes[-4:] != (1, 2, 4, 8) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert set(kitchen.batcher.curve.sizes) >= {1, 2, 4, 8}
    assert kitchen.executions == 1  # what was measured is nobody's request
