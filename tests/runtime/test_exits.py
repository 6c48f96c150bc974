"""Items that leave at an exit: in one executor, on one node, and in front of a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tierwise.artifact import Artifact
from tierwise.runtime import Executor, Pipeline, Placed, Share, deploy
from tierwise.runtime._passage import merge
from tierwise.runtime._passage import split as split_passage


def batch(*sure: float) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(len(sure), 4)).astype(np.float32)
    x[:, 0] = sure
    return {"x": x, "bias": rng.normal(size=(len(sure), 3)).astype(np.float32)}


def expected(artifact: Artifact, tensors: dict[str, Any], directly: Callable[..., Any]) -> npt.NDArray[Any]:
    early = tensors["x"] @ _early_weights()
    return np.where(tensors["x"][:, :1] >= 0.5, early, directly(artifact, tensors))


def _early_weights() -> npt.NDArray[Any]:
    rng = np.random.default_rng(7)
    rng.normal(size=(4, 6))
    return rng.normal(size=(4, 3)).astype(np.float32)


def left_frac(sure: tuple[float, ...]) -> float:
    return sum(one >= 0.5 for one in sure) / max(1, len(sure))


BATCHES = [(0.4,), (0.5,), (0.0, 0.9, 0.1, 0.7), (1.0, 2.0), (0.0, 0.1), ()]


@pytest.mark.parametrize("sure", BATCHES)
def test_rows_leave_where_the_exit_is_sure(exiting: Artifact, directly: Callable[..., Any], sure: Any) -> None:
    executor = Executor(exiting, threads=1)
    tensors = batch(*sure)
    np.testing.assert_allclose(executor.run(tensors)["y"], expected(exiting, tensors, directly), rtol=1e-5)
    passage = executor.advance(tensors)
    assert passage.exit_frac == left_frac(sure)
    assert passage.all_left == (bool(sure) and all(value >= 0.5 for value in sure))


def test_the_rest_only_goes_on(exiting: Artifact) -> None:
    head = Executor(exiting, (0, 1), threads=1)
    passage = head.advance(batch(0.0, 0.9, 0.1))
    assert {name: len(array) for name, array in passage.tensors.items()} == {"h": 2, "bias": 2}
    assert passage.answers is not None
    assert passage.answers["y"].shape == (1, 3)
    assert len(head.run(batch(0.0, 0.9, 0.1))["h"]) == 3


@pytest.mark.parametrize("split", [3, 1], ids=["one tier", "two tiers"])
def test_nodes_honour_exits(
    start_node: Callable[..., Any], exiting: Artifact, directly: Callable[..., Any], split: int
) -> None:
    low, high = start_node("edge"), start_node("cloud")
    if split == 3:
        placement = [Placed(control=low.tcp, share=Share(segments=(0, 3)))]
    else:
        placement = [
            Placed(control=low.tcp, share=Share(segments=(0, 1), forward=high.tcp)),
            Placed(control=high.tcp, share=Share(segments=(1, 3))),
        ]
    deploy(exiting, "m", placement)
    with Pipeline(low.tcp, "m", exiting.manifest.input) as pipeline:
        for sure in BATCHES:
            tensors = batch(*sure)
            reply = pipeline.infer(tensors)
            np.testing.assert_allclose(reply.outputs["y"], expected(exiting, tensors, directly), rtol=1e-5)
            assert reply.exit_frac == left_frac(sure)
            stays = not all(value >= 0.5 for value in sure) or not sure
            assert reply.path == (("edge", "cloud") if split == 1 and stays else ("edge",))
            # What leaves never crosses the link.
            assert (reply.bytes_up > 0) == (split == 1 and stays)


def test_a_model_without_exits_says_nothing_of_them(start_node: Callable[..., Any], chain: Artifact) -> None:
    node = start_node()
    deploy(chain, "m", [Placed(control=node.tcp, share=Share())])
    with Pipeline(node.tcp, "m", chain.manifest.input) as pipeline:
        assert pipeline.infer(batch(0.9)).exit_frac is None


def test_a_request_without_items_among_others_has_its_empty_answer(exiting: Artifact) -> None:
    executor, outputs = Executor(exiting, threads=1), exiting.manifest.outputs
    for sure in ((0.9, 0.1, 0.2), (0.9, 0.8, 0.7), (0.1, 0.2, 0.3)):
        whole = executor.run(batch(*sure))["y"]
        parts = split_passage(executor.advance(batch(*sure)), [2, 0, 1])
        answers = [merge(outputs, part.left, part.answers, part.tensors)["y"] for part in parts]
        assert [answer.shape for answer in answers] == [(2, 3), (0, 3), (1, 3)]
        np.testing.assert_array_equal(np.concatenate(answers), whole)
