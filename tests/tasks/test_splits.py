from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise._errors import InputError
from tierwise.tasks import SPLITS, BuiltinTask, LazySplits, Split, item_digest, load_task, score, task_names
from tierwise.tasks._datasets import Official
from tierwise.tasks._splits import check_disjoint, cut

SIZES = {
    "digits": (1009, 128, 300, 360),
    "fashion-mnist": (54_488, 512, 5000, 10_000),
    "cifar10-jpeg": (44_488, 512, 5000, 10_000),
    "tiny-imagenet-20": (8600, 400, 1000, 1000),
    "sst2": (6664, 256, 872, 1821),
    "mrpc": (3012, 256, 400, 408),
}


@pytest.mark.data
@pytest.mark.parametrize("name", task_names())
def test_built_in_splits_share_no_item(name: str, data_root: Path, tmp_path: Path) -> None:
    task = load_task(BuiltinTask(name=name), tmp_path)  # type: ignore[arg-type]
    digests = [{item_digest(item) for item in task.splits[split].items} for split in SPLITS]
    assert len(set.union(*digests)) == sum(map(len, digests))
    for split in SPLITS:
        labels = task.splits[split].labels
        assert labels.dtype == np.int64
        assert set(labels) == set(range(len(task.labels)))
        assert len(labels) == len(task.splits[split].items)
    # A few repeated items are dropped from the pool, so the train split may be a little smaller than the rest of it.
    sizes = tuple(len(task.splits[split]) for split in SPLITS)
    assert sizes[1:] == SIZES[name][1:]
    assert 0.98 * SIZES[name][0] <= sizes[0] <= SIZES[name][0]
    tensors = task.tensors(task.splits["test"].items[:3])
    assert all(array.shape[0] == 3 for array in tensors.values())


texts = st.lists(st.text("ab", max_size=3), min_size=12, max_size=40)


@given(pool=texts, test=texts, seed=st.integers(0, 3))
def test_cut_never_overlaps(pool: list[str], test: list[str], seed: int) -> None:
    official = Official(Split(pool, np.arange(len(pool)) % 2), None, Split(test, np.arange(len(test)) % 2))
    try:
        splits = cut(official, seed=seed, calibration_items=1, validation_items=2, test_items=0)
    except InputError as error:
        assert "must hold more than 3 different items" in str(error)  # noqa: PT017
        return
    digests = [{item_digest(item) for item in splits[name].items} for name in SPLITS]
    assert len(set.union(*digests)) == sum(map(len, digests))
    assert splits["test"].items == test
    assert len(splits["calibration"]) == 1
    assert len(splits["validation"]) == 2


def test_cut_is_stratified_and_seeded() -> None:
    pool = Split([f"{i}" for i in range(1000)], np.repeat([0, 1], [900, 100]))
    sizes = {"calibration_items": 100, "validation_items": 200, "test_items": 100}
    one, same, other = (cut(Official(pool, None, None), seed=seed, **sizes) for seed in (1, 1, 2))
    assert one["validation"].items == same["validation"].items
    assert one["validation"].items != other["validation"].items
    assert Counter(one["validation"].labels.tolist()) == {0: 180, 1: 20}
    assert [len(one[name]) for name in SPLITS] == [600, 100, 200, 100]


def test_train_items_is_a_limit() -> None:
    pool = Split([f"{i}" for i in range(100)], np.arange(100) % 2)
    splits = cut(
        Official(pool, None, None), seed=0, calibration_items=5, validation_items=5, test_items=5, train_items=20
    )
    assert len(splits["train"]) == 20


def test_shared_item_is_named() -> None:
    splits = {"train": Split(["a", "b"], np.zeros(2, np.int64)), "test": Split(["c", "b"], np.zeros(2, np.int64))}
    with pytest.raises(InputError, match=r"the same content at train\[1\] and test\[1\]"):
        check_disjoint(splits, "mine")


def test_digest_separates_kinds() -> None:
    pixels = np.zeros((2, 2, 1), np.uint8)
    items = [b"ab", "ab", ("a", "b"), ("ab", ""), ("", "ab"), pixels, pixels.reshape(4, 1, 1), {"x": pixels}]
    assert len({item_digest(item) for item in items}) == len(items)
    assert item_digest(pixels) == item_digest(pixels.copy())


def test_splits_load_once_and_only_when_used() -> None:
    calls = []

    def load() -> dict[str, Split]:
        calls.append(1)
        return {name: Split([name], np.zeros(1, np.int64)) for name in SPLITS}

    splits = LazySplits(load)
    assert list(splits) == list(SPLITS)
    assert calls == []
    assert splits["train"].items == ["train"]
    assert splits["test"].items == ["test"]
    assert calls == [1]
    with pytest.raises(KeyError):
        splits["dev"]


def test_score() -> None:
    logits = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert score("accuracy", logits, np.array([1, 0, 0, 0])) == 0.75
    assert score("f1", logits, np.array([1, 0, 1, 1])) == pytest.approx(0.4)
    assert score("f1", -logits, np.array([1, 1, 0, 0])) == 0.0
    with pytest.raises(InputError, match="n >= 1"):
        score("accuracy", logits[:0], np.array([]))
