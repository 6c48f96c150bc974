"""How good boxes are, as COCO counts it, with what each picture contributes."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, UnavailableError
from tierwise._seeds import stream

__all__ = ["BoxScores", "MapDifference", "map_difference"]

# COCO's own unit is the pixel; on a canvas of this many no box of ours is so small that rounding matters.
_CANVAS = 1000.0


@final
@dataclass(frozen=True)
class MapDifference:
    """What one detector has over another on the same pictures.

    Attributes:
        value: First minus second.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@final
class BoxScores:
    """Mean average precision by pycocotools (Lin et al. 2014, arXiv 1405.0312), over all pictures or some of them.

    Overlap does not change when both axes are stretched, so scores on the model's picture are those on the client's.

    Args:
        found: [n, most, 6], as a node answers them (`tierwise.artifact.Detections`).
        labels: [n, most, 6], as `box_labels` packs them.

    Raises:
        InputError: Shapes that do not fit, or no box to be found.
        UnavailableError: pycocotools is not installed.
    """

    def __init__(self, found: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        shaped = all(array.ndim == 3 and array.shape[2] == 6 for array in (found, labels))
        if not shaped or len(found) != len(labels) or len(labels) == 0:
            raise InputError(
                "boxes must be [n, most, 6], found and labelled, with the same n >= 1",
                got=f"{list(found.shape)}, {list(labels.shape)}",
            )
        if not (labels[:, :, 4] >= 0).any():
            raise InputError("the pictures must hold a box to be found", got="none", where="labels")
        self._pictures = len(labels)
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints
            self._judge = _judged(found, labels)
        # By class, then area range (all of them only, the first of four), then picture.
        shape = (len(self._judge.params.catIds), len(self._judge.params.areaRng), self._pictures)
        flat = np.empty(len(self._judge.evalImgs), dtype=object)
        flat[:] = self._judge.evalImgs
        self._contributions = flat.reshape(shape)

    def over(self, pictures: npt.NDArray[np.int64] | None = None) -> tuple[float, float]:
        """``map`` and ``map50`` over the pictures at these places, which may repeat (as a bootstrap draws them)."""
        places = np.arange(self._pictures) if pictures is None else pictures
        judge = self._judge
        judge.evalImgs = list(self._contributions[:, :, places].reshape(-1))
        judge.params.imgIds = list(range(len(places)))
        judge._paramsEval.imgIds = judge.params.imgIds
        with contextlib.redirect_stdout(io.StringIO()):
            judge.accumulate()
        # Overlap, recall, class, area range, most boxes; -1 where a class has no box among the pictures.
        precision = judge.eval["precision"][:, :, :, 0, -1]
        known = precision[precision > -1]
        at_half = precision[0][precision[0] > -1]
        return (float(known.mean()) if known.size else 0.0), (float(at_half.mean()) if at_half.size else 0.0)

    @property
    def map(self) -> float:
        """Over overlaps from 0.5 to 0.95, classes and 101 recalls."""
        return self.over()[0]

    @property
    def map50(self) -> float:
        """At an overlap of 0.5."""
        return self.over()[1]

    def __len__(self) -> int:
        return self._pictures


def map_difference(first: BoxScores, second: BoxScores, *, draws: int = 1000, seed: int = 0) -> MapDifference:
    """The difference in ``map`` of two detectors on the same pictures, by a paired bootstrap over pictures.

    Raises:
        InputError: Not the same number of pictures.
    """
    if len(first) != len(second):
        raise InputError("both must be scored on the same pictures", got=f"{len(first)} and {len(second)}")
    generator = stream(seed, "map difference")
    drawn = []
    for _ in range(draws):
        places = generator.integers(0, len(first), len(first))
        drawn.append(first.over(places)[0] - second.over(places)[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return MapDifference(first.map - second.map, float(low), float(high))


def _judged(found: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Any:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UnavailableError(
            "scoring boxes needs pycocotools", fix="Install it with: pip install 'tierwise[detection]'"
        ) from error
    truth: list[dict[str, Any]] = []
    for picture, place in np.argwhere(labels[:, :, 4] >= 0):
        left, top, right, bottom, kind, crowd = map(float, labels[picture, place])
        box = [left * _CANVAS, top * _CANVAS, (right - left) * _CANVAS, (bottom - top) * _CANVAS]
        truth.append(
            {
                "id": len(truth) + 1,  # the library takes 0 for none
                "image_id": int(picture),
                "category_id": int(kind),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }
        )
    known = COCO()
    known.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(labels))],
        "annotations": truth,
        "categories": [{"id": int(kind)} for kind in np.unique(labels[:, :, 4]) if kind >= 0],
    }
    known.createIndex()
    rows = np.argwhere(found[:, :, 5] >= 0)
    given = found[rows[:, 0], rows[:, 1]].astype(np.float64)
    # Picture, left, top, width, height, score, class.
    sizes = given[:, 2:4] - given[:, :2]
    table = np.column_stack([rows[:, 0], given[:, :2] * _CANVAS, sizes * _CANVAS, given[:, 4], given[:, 5]])
    judge = COCOeval(known, known.loadRes(table) if len(table) else _nothing(COCO, known), "bbox")
    judge.params.areaRng, judge.params.areaRngLbl = [judge.params.areaRng[0]], ["all"]
    judge.params.maxDets = [100]
    judge.evaluate()
    return judge


def _nothing(kind: Any, known: Any) -> Any:
    """A result without boxes, which the library cannot load."""
    empty = kind()
    empty.dataset = {**known.dataset, "annotations": []}
    empty.createIndex()
    return empty
