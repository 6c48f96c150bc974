"""Cutting a data set into four splits that share no item."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.tasks._datasets import Official
from tierwise.tasks._task import SPLITS, Split, item_digest

__all__ = ["check_disjoint", "cut"]


def cut(
    official: Official,
    *,
    seed: int,
    calibration_items: int,
    validation_items: int,
    test_items: int,
    train_items: int | None = None,
) -> dict[str, Split]:
    """The four splits, stratified by class and equal for equal arguments.

    The makers' test split is kept whole. An item of theirs that stands in it is dropped from everything else, and so
    is every repetition inside the pool, so that no content is in two splits.

    Args:
        official: The data set as its makers cut it.
        seed: Root seed.
        calibration_items: Size of ``calibration``, from the pool.
        validation_items: Size of ``validation``, from the pool, where the makers gave none.
        test_items: Size of ``test``, from the pool, where the makers gave none.
        train_items: Upper limit of ``train``; the rest of the pool where None.

    Raises:
        InputError: The pool is too small.
    """
    seen: set[str] = set()
    splits: dict[str, Split] = {}
    for name, split in (("test", official.test), ("validation", official.validation)):
        if split is not None:
            # Repetitions inside the makers' own test split stay: figures of others were made on all of it.
            digests = [item_digest(item) for item in split.items]
            splits[name] = split.take([i for i, digest in enumerate(digests) if digest not in seen])
            seen.update(digests)
    pool = _without(official.pool, seen)
    order = _stratified_order(pool.labels, seed)
    wanted = {"test": test_items, "calibration": calibration_items, "validation": validation_items}
    start = 0
    for name, count in wanted.items():
        if name not in splits:
            splits[name] = pool.take(order[start : start + count])
            start += count
    if start >= len(order):
        raise InputError(f"the pool must hold more than {start} different items", got=len(order))
    splits["train"] = pool.take(order[start:][:train_items])
    return {name: splits[name] for name in SPLITS}


def _without(pool: Split, seen: set[str]) -> Split:
    """The pool without items whose digest is in ``seen``, and each content once; ``seen`` grows."""
    kept = []
    for i, item in enumerate(pool.items):
        digest = item_digest(item)
        if digest not in seen:
            seen.add(digest)
            kept.append(i)
    return pool.take(kept)


def _stratified_order(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """A random order in which every prefix holds the classes in proportion."""
    generator = stream(seed, "splits")
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Members of a class are spread evenly over [0, 1), each at random inside its own slot.
        place[generator.permutation(members)] = (np.arange(len(members)) + generator.random(len(members))) / len(
            members
        )
    return np.argsort(place, kind="stable")


def check_disjoint(splits: dict[str, Split], where: str) -> None:
    """Refuse splits that share an item.

    Raises:
        InputError: With the names of the two splits and the place of the item in both.
    """
    owner: dict[str, tuple[str, int]] = {}
    for name, split in splits.items():
        for i, item in enumerate(split.items):
            first, j = owner.setdefault(item_digest(item), (name, i))
            if first != name:
                raise InputError(
                    "no item may be in two splits",
                    got=f"the same content at {first}[{j}] and {name}[{i}]",
                    where=where,
                    fix="Remove it from one of them; a score on items that were trained on says nothing",
                )
