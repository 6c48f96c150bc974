"""What the frozen part gives is computed once for an item, and nothing that is learnt changes by it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tierwise._errors import InputError
from tierwise.artifact import Artifact, Optimiser
from tierwise.training import Feed, Scheme, TrainingSession
from tierwise.training._feature_cache import FeatureCache
from tierwise.training.compiler import compile_training
from tierwise.training.compiler._parts import are_items_apart
from tierwise.training.compiler._split import Part

ITEMS, BATCH, STEPS = 7, 2, 21
SCHEMES = {"mobilenet": Scheme(biases=9, whole=1), "bert": Scheme(biases=6, whole=1)}


@pytest.fixture(scope="module", params=list(SCHEMES))
def artifact(request: pytest.FixtureRequest, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param) / "artifact"
    return compile_training(
        kit.seeded(kind), kit.lesson(kind, BATCH), SCHEMES[kind], Optimiser(kind="sgd", rate=0.01), folder
    )


def learnt(artifact: Artifact, kit: Any, cache_bytes: int, *, lean: bool = False) -> tuple[Any, int]:
    """The tensors after some epochs of a few items, and how many steps were given no inputs."""
    (inputs, labels), _ = kit.batches(artifact.manifest.name, ITEMS)
    session = TrainingSession(artifact, cache_bytes=cache_bytes, lean=lean)
    feed, without = Feed(ITEMS, BATCH), 0
    while session.steps < STEPS:
        chosen = feed.indices(session.steps).tolist()
        known = session.knows(chosen)
        given = {} if known else {name: array[chosen] for name, array in inputs.items()}
        session.step(given, labels[chosen], items=chosen)
        without += known
    return session.trained(), without


@pytest.mark.parametrize("lean", [False, True])
def test_known_items_need_no_inputs_and_teach_the_same(artifact: Artifact, kit: Any, lean: bool) -> None:
    plain, none = learnt(artifact, kit, 0, lean=lean)
    cached, without = learnt(artifact, kit, 1 << 20, lean=lean)
    assert (none, without) == (0, STEPS - 4)  # the first epoch and the first item of the next take four batches
    for name, tensor in plain.items():
        np.testing.assert_array_equal(cached[name], tensor)


def test_a_full_cache_keeps_what_it_has(artifact: Artifact, kit: Any) -> None:
    plan = TrainingSession(artifact).spec.plan
    cached, without = learnt(artifact, kit, 4 * plan.border_bytes // BATCH)
    assert 0 < without < STEPS - 4
    for name, tensor in learnt(artifact, kit, 0)[0].items():
        np.testing.assert_array_equal(cached[name], tensor)


def test_a_cache_takes_no_more_than_it_may() -> None:
    like = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 1), np.int64)}
    cache = FeatureCache(like, 3 * 20 + 19)
    for item in range(5):
        cache.put([item], {"a": np.full((1, 3), item, np.float32), "b": np.full((1, 1), item)})
    assert [cache.knows([item]) for item in range(5)] == [True, True, True, False, False]
    cache.put([1], {"a": np.zeros((1, 3), np.float32), "b": np.zeros((1, 1), np.int64)})
    taken = {name: np.empty_like(array) for name, array in like.items()}
    cache.take([2, 1], taken)
    assert taken["a"].tolist() == [[2.0] * 3, [1.0] * 3]
    assert taken["b"].tolist() == [[2], [1]]


def test_a_cache_larger_than_any_memory_takes_what_there_is_to_keep(artifact: Artifact, kit: Any) -> None:
    _, without = learnt(artifact, kit, (1 << 63) - 1)
    assert without == STEPS - 4


def test_unknown_items_without_inputs_are_refused(artifact: Artifact, kit: Any) -> None:
    (inputs, labels), _ = kit.batches(artifact.manifest.name, BATCH)
    session = TrainingSession(artifact, cache_bytes=1 << 20)
    with pytest.raises(InputError, match="not all known"):
        session.step({}, labels, items=[0, 1])
    with pytest.raises(InputError, match="2 items"):
        session.step(inputs, labels, items=[0])
    assert session.steps == 0


def test_features_that_are_not_sorted_by_item_are_told_apart(kit: Any) -> None:
    def prefix(x: torch.Tensor, order: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        return (torch.tanh(x), torch.sin(x).unflatten(1, (2, -1)).transpose(*order).flatten(0, 1))

    given = torch.randn(3, 8)
    for order, apart in (((1, 1), True), ((0, 1), False)):
        graph = make_fx(functools.partial(prefix, order=order))(given)
        assert are_items_apart(Part(graph, ("x",), ("a", "b")), {"x": given}) is apart


def test_a_model_without_a_frozen_part_knows_nothing(kit: Any, tmp_path: Path) -> None:
    how, lesson = Optimiser(kind="sgd", rate=0.01), kit.lesson("resnet", BATCH)
    made = compile_training(kit.seeded("resnet"), lesson, Scheme(whole="all"), how, tmp_path / "a")
    _, without = learnt(made, kit, 1 << 20)
    assert without == 0
