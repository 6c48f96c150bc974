from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tierwise._errors import InputError, SpecError
from tierwise.artifact import Detections, ImageInput
from tierwise.tasks import Split, Task, Unlabelled, hashed, with_unlabelled
from tierwise.tasks._task import SPLITS, LazySplits

BOXES = Detections(tensor="cells", layout="grid", classes=(0,))


def _picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "street" / "deep").mkdir(parents=True)
    (tmp_path / "street" / "b.png").write_bytes(_picture(100))
    (tmp_path / "street" / "deep" / "a.PNG").write_bytes(_picture(101))
    (tmp_path / "street" / "notes.txt").write_text("no picture")
    return tmp_path / "street"


def _task(encoding: str = "jpeg", boxes: Detections | None = None) -> Task:
    def split(first: int) -> Split:
        labels = np.ones((2, 3, 6), np.float32) if boxes else np.array([0, 1])
        return Split([_picture(first), _picture(first + 1)], labels)

    return Task(
        name="things",
        encoding=ImageInput(encoding=encoding, height=8, width=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3),
        labels=("one", "two"),
        splits={name: split(2 * i) for i, name in enumerate(SPLITS)},
        model=None,
        boxes=boxes,
    )


def test_pictures_join_the_train_split_alone(folder: Path) -> None:
    task = _task()
    longer = with_unlabelled(task, Unlabelled(folder=str(folder)))
    assert list(longer.splits["train"].items) == [*task.splits["train"].items, _picture(100), _picture(101)]
    assert longer.splits["train"].labels.tolist() == [0, 1, -1, -1]
    assert all(longer.splits[name] is task.splits[name] for name in SPLITS[1:])
    assert len(task.splits["train"]) == 2


def test_they_have_no_boxes(folder: Path) -> None:
    labels = with_unlabelled(_task(boxes=BOXES), Unlabelled(folder=str(folder))).splits["train"].labels
    assert labels.shape == (4, 3, 6)
    assert (labels[2:, :, 4] == -1).all()
    assert (labels[:2, :, 4] == 1).all()


def test_the_hash_is_of_the_pictures(folder: Path, tmp_path: Path) -> None:
    spec = hashed(Unlabelled(folder=str(folder)))
    assert hashed(spec) == spec
    moved = folder.rename(tmp_path / "elsewhere")
    assert hashed(Unlabelled(folder=str(moved))).sha256 == spec.sha256
    (moved / "b.png").write_bytes(_picture(102))
    assert spec.sha256 is not None
    with pytest.raises(SpecError, match="must have the sha256"):
        hashed(Unlabelled(folder=str(moved), sha256=spec.sha256))


def test_what_cannot_be_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="must hold pictures"):
        hashed(Unlabelled(folder=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="encoded pictures"):
        with_unlabelled(_task("uint8"), Unlabelled(folder=str(folder)))
    (folder / "leak.png").write_bytes(_task().splits["test"].items[0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="in another split"):
        with_unlabelled(_task(), Unlabelled(folder=str(folder)))


def test_a_picture_that_breaks_off_is_named(folder: Path) -> None:
    (folder / "b.png").write_bytes(_picture(100)[:120])
    longer = with_unlabelled(_task(), Unlabelled(folder=str(folder)))
    train = longer.splits["train"]
    with pytest.raises(InputError, match=rf"^{folder}/b\.png: the bytes must be a picture, .* but got 120 bytes"):
        longer.tensors(train.items)
    with pytest.raises(InputError, match=rf"^{folder}/b\.png: "):
        longer.tensors(train.take([0, 3, 2]).items)
    known, *_ = longer.splits["test"].items
    broken = Split([known, b"no picture"], np.array([0, 1]))
    with pytest.raises(InputError, match=r"^item 1 of test: the bytes must be a picture"):
        dataclasses.replace(longer, splits={**longer.splits, "test": broken}).tensors(broken.items)
    with pytest.raises(InputError, match=r"payload\[1\]: the bytes must be a picture") as caught:
        longer.tensors([known, b"from elsewhere"])
    assert caught.value.__cause__ is not caught.value


def test_data_that_cannot_be_had_does_not_hide_a_broken_picture() -> None:
    def nothing() -> dict[str, Split]:
        raise InputError("this task has no data")

    with pytest.raises(InputError, match=r"payload\[0\]: the bytes must be a picture"):
        dataclasses.replace(_task(), splits=LazySplits(nothing)).tensors([b"no picture"])


def test_a_split_names_all_of_its_items_or_none() -> None:
    with pytest.raises(InputError, match="must have a name for each item, or none, but got 1 names, 2 items"):
        Split([b"a", b"b"], np.array([0, 1]), ["a.png"])
