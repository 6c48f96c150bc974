from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tierwise._errors import InputError
from tierwise.artifact import ImageInput, Preprocessor, to_payload
from tierwise.tasks import BoxScores, box_labels, map_difference, score
from tierwise.tasks._box_files import boxed_split, read_coco, read_yolo

pytest.importorskip("pycocotools")

ENCODING = ImageInput(
    encoding="jpeg", height=64, width=64, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, fit="letterbox"
)


def picture(height: int = 20, width: int = 40) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(file, "PNG")
    return file.getvalue()


def found(*pictures: list[tuple[float, ...]]) -> np.ndarray:
    made = np.zeros((len(pictures), 4, 6), np.float32)
    made[:, :, 5] = -1
    for row, boxes in enumerate(pictures):
        for place, box in enumerate(boxes):
            made[row, place] = box
    return made


LABELS = box_labels([
    np.array([[0.1, 0.1, 0.4, 0.4, 0], [0.5, 0.5, 0.9, 0.9, 1]], np.float32),
    np.zeros((0, 5), np.float32),
    np.array([[0.2, 0.2, 0.6, 0.6, 0]], np.float32),
])  # fmt: skip
RIGHT = found([(0.1, 0.1, 0.4, 0.4, 0.9, 0), (0.5, 0.5, 0.9, 0.9, 0.8, 1)], [], [(0.2, 0.2, 0.6, 0.6, 0.7, 0)])


def test_perfect_boxes_score_one_and_none_zero() -> None:
    assert score("map", RIGHT, LABELS) == pytest.approx(1.0)
    assert score("map50", RIGHT, LABELS) == pytest.approx(1.0)
    assert score("map", found([], [], []), LABELS) == 0.0


def test_half_an_overlap_counts_for_map50_alone() -> None:
    shifted = RIGHT.copy()
    shifted[:, :, 2] = np.where(
        shifted[:, :, 5] >= 0, shifted[:, :, 0] + (shifted[:, :, 2] - shifted[:, :, 0]) * 0.62, 0
    )
    scores = BoxScores(shifted, LABELS)
    assert scores.map50 == pytest.approx(1.0)
    assert scores.map == pytest.approx(0.3)  # overlaps of 0.5, 0.55 and 0.6 of ten


def test_a_class_confused_is_not_found_and_a_crowd_is_not_asked() -> None:
    confused = RIGHT.copy()
    confused[0, 1, 5] = 0
    assert score("map", confused, LABELS) < 0.6
    crowd = LABELS.copy()
    crowd[0, 1, 5] = 1
    only_cars = found([(0.1, 0.1, 0.4, 0.4, 0.9, 0)], [], [(0.2, 0.2, 0.6, 0.6, 0.7, 0)])
    assert score("map", only_cars, crowd) == pytest.approx(1.0)


def test_scores_over_some_pictures_are_those_of_them_alone() -> None:
    worse = RIGHT.copy()
    worse[0, 0, :4] += 0.03
    whole = BoxScores(worse, LABELS)
    for places in ([0], [0, 1], [0, 2, 2], [2, 0, 0, 1]):
        chosen = np.array(places)
        alone = BoxScores(worse[chosen], LABELS[chosen])
        assert whole.over(chosen) == pytest.approx((alone.map, alone.map50))
    assert whole.map == pytest.approx(BoxScores(worse, LABELS).map)


def test_a_paired_difference() -> None:
    worse = RIGHT.copy()
    worse[:, :, :4] = np.where(worse[:, :, 5:] >= 0, worse[:, :, :4] * 0.9, 0)
    best, other = BoxScores(RIGHT, LABELS), BoxScores(worse, LABELS)
    same = map_difference(best, best, draws=20)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    apart = map_difference(best, other, draws=20)
    assert apart.value == pytest.approx(best.map - other.map)
    assert 0 < apart.low <= apart.value <= apart.high
    with pytest.raises(InputError, match="same pictures"):
        map_difference(best, BoxScores(RIGHT[:1], LABELS[:1]))


@pytest.mark.parametrize("shape", [(2, 4, 6), (3, 4, 5), (3, 4)])
def test_shapes_are_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="same n"):
        score("map", np.zeros(shape, np.float32), LABELS)


def test_labels_without_area_are_refused() -> None:
    with pytest.raises(InputError, match="area"):
        box_labels([np.array([[0.5, 0.1, 0.5, 0.4, 0]], np.float32)])


def test_yolo_folders(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.png").write_bytes(picture())
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n\n0 0.95 0.5 0.2 0.2\n")
    split = boxed_split(read_yolo(tmp_path, 2), ENCODING)
    assert len(split) == 2
    # 40 x 20 on 64 x 64: as wide, from 16 to 48 in height.
    np.testing.assert_allclose(split.labels[0, 0], [0.4, 0.4, 0.6, 0.6, 1, 0], atol=1e-6)
    np.testing.assert_allclose(split.labels[0, 1], [0.85, 0.45, 1.0, 0.55, 0, 0], atol=1e-6)
    assert (split.labels[1, :, 4] == -1).all()
    for bad in (
        "2 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1",
        "car 0.5 0.5 0.1 0.1",
        "0.5 0.5 0.5 0.1 0.1",
        "0 nan 0.5 0.1 0.1",
    ):
        (tmp_path / "labels" / "b.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{bad}\n")
        with pytest.raises(InputError, match=r"b\.txt:2") as caught:
            read_yolo(tmp_path, 2)
        assert bad in str(caught.value)
    for bad in (
        "0 32 24 20 20",  # in pixels
        "0 0.5 0.5 -0.2 0.1",
        "0 0.5 0.5 0.1 1.2",
        "0 1.2 0.5 0.1 0.1",
    ):
        (tmp_path / "labels" / "b.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{bad}\n")
        with pytest.raises(InputError, match=r"b\.txt:2: a box must have its centre in the picture"):
            read_yolo(tmp_path, 2)
    (tmp_path / "labels" / "b.txt").write_bytes("0 0.5 0.5 0.1 0.1 # \xe4".encode("latin-1"))
    with pytest.raises(InputError, match=r"b\.txt: a file of boxes must be readable UTF-8"):
        read_yolo(tmp_path, 2)
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5 1e-9 0.1\n1 0.5 0.5 0.1 0.1\n", encoding="utf-8-sig")
    assert read_yolo(tmp_path, 2)[1].boxes[:, 4].tolist() == [1.0], "what has no area is left out"
    with pytest.raises(InputError, match="images"):
        read_yolo(tmp_path / "labels", 2)
    (tmp_path / "images" / "b.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"b\.png: the file must be a picture"):
        boxed_split(read_yolo(tmp_path, 2), ENCODING)


def test_boxes_lie_on_a_picture_as_it_is_shown(tmp_path: Path) -> None:
    """Cameras store what they saw lying on its side, and say so; whoever labels it sees it upright."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    shown = np.zeros((64, 32, 3), np.uint8)
    shown[8:20, 16:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.rot90(shown).copy())
    stored.save(tmp_path / "images" / "a.png", exif=exif)
    (tmp_path / "labels" / "a.txt").write_text(f"0 {24 / 32} {14 / 64} {16 / 32} {12 / 64}")
    split = boxed_split(read_yolo(tmp_path, 1), ENCODING)
    pixels = Preprocessor(ENCODING)(to_payload(ENCODING, list(split.items)))[ENCODING.tensor][0, 0]
    left, top, right, bottom = (split.labels[0, 0, :4] * 64).round().astype(int)
    inside = pixels[top + 1 : bottom - 1, left + 1 : right - 1]
    assert inside.size > 50
    assert inside.min() > 2 * pixels.mean()
    assert inside.mean() > 0.99 * pixels.max()


def test_coco_files(tmp_path: Path) -> None:
    def refuses(told: dict[str, Any], said: str) -> None:
        (tmp_path / "x.json").write_text(json.dumps(told))
        with pytest.raises(InputError, match=said):
            read_coco(tmp_path / "x.json", tmp_path)

    (tmp_path / "a.png").write_bytes(picture())
    told = {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 20}],
        "categories": [{"id": 9, "name": "bus"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "bbox": [4, 2, 8, 10], "iscrowd": 1},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 20]},
            {"image_id": 7, "category_id": 3, "bbox": [5, 5, 0, 3]},
        ],
    }
    (tmp_path / "x.json").write_text(json.dumps(told))
    pictures, names = read_coco(tmp_path / "x.json", tmp_path)
    assert names == ("car", "bus")
    np.testing.assert_allclose(pictures[0].boxes, [[0.1, 0.1, 0.3, 0.6, 1, 1], [0, 0, 1, 1, 0, 0]], atol=1e-6)
    boxed_split(pictures, ENCODING)
    annotation = told["annotations"][1]
    for box, said in (
        ([0, 0, -40, 20], r"annotations\[1\]: a box must have its centre in the picture"),
        ([90, 0, 10, 20], r"annotations\[1\]: a box must have its centre in the picture"),
        ([float("nan"), 0, 1, 1], r"annotations\[1\]: a box must have its centre in the picture"),
    ):
        refuses(told | {"annotations": [told["annotations"][0], annotation | {"bbox": box}]}, said)
    refuses(told | {"categories": [], "annotations": []}, "a category at least, and every picture once")
    refuses(told | {"images": told["images"] + [told["images"][0] | {"id": 8}]}, "every picture once")
    refuses(told | {"annotations": [annotation | {"category_id": float("inf")}]}, "COCO's JSON.*OverflowError")
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="COCO's JSON"):
        read_coco(tmp_path / "x.json", tmp_path)
    other = json.dumps(told | {"images": [told["images"][0] | {"width": 80, "height": 40}]})
    (tmp_path / "x.json").write_text(other)
    with pytest.raises(InputError, match=r"a\.png: .* own height and width, 20 x 40, but got 40 x 80"):
        boxed_split(read_coco(tmp_path / "x.json", tmp_path)[0], ENCODING)
    told["images"][0]["file_name"] = "../x.png"
    (tmp_path / "x.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="must lie in the folder"):
        read_coco(tmp_path / "x.json", tmp_path)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InputError, match="COCO's JSON"):
        read_coco(tmp_path / "x.json", tmp_path)
