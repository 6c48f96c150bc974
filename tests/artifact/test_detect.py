from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tierwise._errors import InputError
from tierwise.artifact import (
    Detections,
    ImageInput,
    Preprocessor,
    detect,
    detections_spec,
    to_canvas,
    to_payload,
    to_picture,
)
from tierwise.artifact._detect import overlaps

LETTERBOX = ImageInput(
    encoding="png", height=64, width=64, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, fit="letterbox", order="bgr"
)


def rows(*boxes: tuple[float, ...], classes: int = 2) -> np.ndarray:
    """A batch of one in the layout ``rows`` from (left, top, right, bottom, score, class)."""
    raw = np.zeros((1, len(boxes), 4 + classes), np.float32)
    for i, (*corners, score, kind) in enumerate(boxes):
        raw[0, i, :4] = corners
        raw[0, i, 4 + int(kind)] = score
    return raw


def test_doubles_are_dropped_within_a_class_only() -> None:
    spec = Detections(tensor="x", layout="rows", classes=(0, 1), most=5)
    raw = rows(
        (0.1, 0.1, 0.5, 0.5, 0.6, 0),
        (0.1, 0.1, 0.5, 0.52, 0.9, 0),
        (0.1, 0.1, 0.5, 0.5, 0.7, 1),
        (0.6, 0.6, 0.9, 0.9, 0.005, 0),
    )
    made = detect(spec, raw)
    assert made.shape == (1, *detections_spec(spec).shape[1:])
    np.testing.assert_allclose(made[0, :2, 4:], [[0.9, 0], [0.7, 1]], rtol=1e-6)
    assert (made[0, 2:, 5] == -1).all()
    assert (made[0, 2:, :5] == 0).all()


def test_classes_are_mapped_before_doubles_are_dropped() -> None:
    spec = Detections(tensor="x", layout="rows", classes=(-1, 0), most=3)
    made = detect(spec, rows((0.1, 0.1, 0.5, 0.5, 0.9, 0), (0.1, 0.1, 0.5, 0.5, 0.7, 1)))
    np.testing.assert_allclose(made[0, 0], [0.1, 0.1, 0.5, 0.5, 0.7, 0], rtol=1e-6)
    assert made[0, 1, 5] == -1
    one = Detections(tensor="x", layout="rows", classes=(0, 0), most=3)
    assert (detect(one, rows((0.1, 0.1, 0.5, 0.5, 0.9, 0), (0.1, 0.1, 0.5, 0.5, 0.7, 1)))[0, :, 5] >= 0).sum() == 1


def test_the_grid_is_decoded() -> None:
    raw = np.zeros((1, 7, 2, 4), np.float32)
    raw[0, :, 1, 2] = [0.5, np.arctanh(0.5), np.arctanh(-0.5), 0.0, np.log(0.25 / 0.75), 0.1, 0.9]
    made = detect(Detections(tensor="x", layout="grid", classes=(0, 1), least_score=0.1), raw)
    # Centre (2.5 / 4, 0.5 / 2), size (0.5, 0.25).
    np.testing.assert_allclose(made[0, 0], [0.375, 0.125, 0.875, 0.375, 0.5**0.6 * 0.9**0.4, 1], rtol=1e-5)
    assert (made[0, 1:, 5] == -1).all()


def test_at_most_so_many_and_the_best_first() -> None:
    generator = np.random.default_rng(0)
    low = generator.random((1, 50, 2), np.float32) * 0.9
    raw = np.concatenate([low, low + 0.02, generator.random((1, 50, 1), np.float32)], axis=2)
    made = detect(Detections(tensor="x", layout="rows", classes=(0,), most=10), raw)[0]
    assert (np.diff(made[:, 4]) <= 0).all()
    assert (made[:, 5] == 0).all()


def test_a_wrong_layout_is_refused() -> None:
    with pytest.raises(InputError, match="3 classes"):
        detect(Detections(tensor="x", layout="rows", classes=(0, 1, 2)), np.zeros((1, 5, 6), np.float32))


def test_overlaps() -> None:
    ones = np.array([[0, 0, 1, 1]], np.float32)
    others = np.array([[0, 0, 0.5, 1], [0.5, 0.5, 1.5, 1.5], [2, 2, 3, 3]], np.float32)
    np.testing.assert_allclose(overlaps(ones, others), [[0.5, 0.25 / 1.75, 0]])


@pytest.mark.parametrize(("height", "width"), [(30, 90), (90, 30), (64, 64), (1, 500), (61, 47)])
def test_there_and_back_on_the_canvas(height: int, width: int) -> None:
    boxes = np.array([[0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1]], np.float32)
    placed = to_canvas(boxes, LETTERBOX, height, width)
    assert (placed >= 0).all()
    assert (placed <= 1).all()
    np.testing.assert_allclose(to_picture(placed, LETTERBOX, height, width), boxes, atol=1e-5)


def test_a_letterboxed_picture_lies_where_boxes_say() -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, :50, 0] = 255  # the left half is red
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    made = Preprocessor(LETTERBOX)(to_payload(LETTERBOX, [file.getvalue()]))["input"][0]
    left, top, right, bottom = to_canvas(np.array([0, 0, 0.5, 1], np.float32), LETTERBOX, 40, 100) * 64
    red = made[2]  # BGR
    inside = red[int(np.ceil(top)) : int(bottom), int(left) : int(right) - 1]
    assert inside.min() > 0.95
    np.testing.assert_allclose(made[:, 0, 0], 114 / 255, rtol=1e-5)
    assert made[0, int(top) + 2, 2] == 0
