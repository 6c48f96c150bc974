"""Pictures with boxes as others keep them: folders of YOLO text files, and COCO's JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.artifact import ImageInput, picture_size, to_canvas
from tierwise.tasks._box_labels import box_labels
from tierwise.tasks._task import Split

__all__ = ["BoxedPicture", "boxed_split", "read_coco", "read_yolo", "yolo_boxes"]

Floats = npt.NDArray[np.float32]
# Tools round, and boxes of what is cut off by the border may have their centre just outside.
_ROUNDING = 0.01
_MALFORMED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ZeroDivisionError,
    OverflowError,
    RecursionError,
)
_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@final
@dataclass(frozen=True)
class BoxedPicture:
    """A picture and its boxes.

    Attributes:
        name: Where it lies.
        content: The encoded picture.
        boxes: [k, 6]: left, top, right, bottom as shares of the picture, class, crowd (`box_labels`).
        size: Height and width that its boxes were made for, where their file says so.
    """

    name: str
    content: bytes
    boxes: Floats
    size: tuple[int, int] | None = None


def boxed_split(pictures: Sequence[BoxedPicture], encoding: ImageInput) -> Split:
    """A split of pictures, its labels on the canvas that ``encoding`` puts them on.

    Raises:
        InputError: A picture cannot be read, or has another size than its boxes were made for.
    """
    placed = []
    for picture in pictures:
        height, width = picture_size(picture.content, picture.name)
        if picture.size not in (None, (height, width)):
            raise InputError(
                f"the file of boxes must have the picture's own height and width, {height} x {width}",
                got=f"{picture.size[0]} x {picture.size[1]}",
                where=picture.name,
            )
        boxes = picture.boxes.copy()
        boxes[:, :4] = np.clip(to_canvas(boxes[:, :4], encoding, height, width), 0.0, 1.0)
        placed.append(boxes[_with_area(boxes)])
    names = [picture.name for picture in pictures]
    return Split([picture.content for picture in pictures], box_labels(placed), names)


def yolo_boxes(text: str, where: str, classes: int) -> Floats:
    """Boxes of one YOLO file: a line each of class, centre x, centre y, width, height as shares of the picture.

    Boxes that reach out of the picture are cut at its border; what has no area is left out.

    Raises:
        InputError: A line has another form, a class that is not there, or a box that is not in the picture.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, *values = map(float, line.split())
        except ValueError:
            kind, values = -1.0, []
        finite = bool(np.isfinite(values).all())
        if len(values) != 4 or not finite or not kind.is_integer() or not 0 <= kind < classes:
            raise InputError(
                f"a line must be a class in 0..{classes - 1} and four numbers (centre and size)",
                got=line[:80],
                where=f"{where}:{number}",
            )
        rows.append([*_corners(values, f"{where}:{number}"), kind, 0.0])
    boxes = np.array(rows, np.float32).reshape(-1, 6)
    return boxes[_with_area(boxes)]


def _corners(box: Sequence[float], where: str) -> list[float]:
    """Left, top, right, bottom within the picture, from centre and size as shares of it.

    Raises:
        InputError: The box cannot be one of this picture: such labels are in pixels, or of another picture.
    """
    x, y, width, height = box
    inside = all(-_ROUNDING <= one <= 1 + _ROUNDING for one in (x, y))
    if not inside or not all(0 <= one <= 1 + _ROUNDING for one in (width, height)):
        raise InputError(
            "a box must have its centre in the picture and a size of 0 to 1, all as shares of the picture's sides",
            got=f"centre {x:g}, {y:g}, size {width:g} x {height:g}",
            where=where,
        )
    reaching = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return [min(max(one, 0.0), 1.0) for one in reaching]


def _with_area(boxes: Floats) -> npt.NDArray[np.bool_]:
    return np.logical_and(boxes[:, 2] > boxes[:, 0], boxes[:, 3] > boxes[:, 1])


def read_yolo(folder: Path, classes: int) -> list[BoxedPicture]:
    """Pictures under ``folder/images`` with their boxes under ``folder/labels``, by name.

    A picture without a file of boxes has none.

    Raises:
        InputError: No pictures there, or a file of boxes cannot be read.
    """
    root = folder / "images"
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in _PICTURES) if root.is_dir() else []
    if not found:
        raise InputError(
            "the folder must hold pictures in `images` (and their boxes in `labels`)", got="none", where=folder
        )
    pictures = []
    for path in found:
        told = folder / "labels" / path.relative_to(root).with_suffix(".txt")
        try:
            text = told.read_text(encoding="utf-8-sig") if told.is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"a file of boxes must be readable UTF-8 text ({error})", where=told) from error
        pictures.append(BoxedPicture(str(path), path.read_bytes(), yolo_boxes(text, str(told), classes)))
    return pictures


def read_coco(file: Path, pictures: Path) -> tuple[list[BoxedPicture], tuple[str, ...]]:
    """Pictures and class names of a COCO file; classes are numbered from 0 in the order of their ids.

    Args:
        file: The JSON (``images``, ``annotations``, ``categories``).
        pictures: Folder of the pictures.

    Raises:
        InputError: The file has another form, or names a picture that is not there.
    """
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig"))
        kinds = sorted(told["categories"], key=lambda kind: int(kind["id"]))
        place = {int(kind["id"]): i for i, kind in enumerate(kinds)}
        images = {one["id"]: (str(one["file_name"]), int(one["height"]), int(one["width"])) for one in told["images"]}
        boxes: dict[Any, list[list[float]]] = {key: [] for key in images}
        for number, one in enumerate(told["annotations"]):
            x, y, width, height = map(float, one["bbox"])
            _, down, across = images[one["image_id"]]
            centre_and_size = ((x + width / 2) / across, (y + height / 2) / down, width / across, height / down)
            corners = _corners(centre_and_size, f"{file}: annotations[{number}]")
            row = [*corners, float(place[int(one["category_id"])]), float(one.get("iscrowd", 0))]
            boxes[one["image_id"]].append(row)
    except _MALFORMED as error:
        raise InputError(
            f"the file must be COCO's JSON: images, annotations, categories ({type(error).__name__}: {error})",
            where=file,
        ) from error
    if not kinds or len({name for name, *_ in images.values()}) < len(told["images"]):
        raise InputError(
            "the file must have a category at least, and every picture once",
            got=f"{len(kinds)} categories, {len(told['images'])} images",
            where=file,
        )
    read = []
    for key, (name, *size) in images.items():
        path = pictures / name
        if not path.is_file() or not path.resolve().is_relative_to(pictures.resolve()):
            raise InputError("a picture that the file names must lie in the folder", got=name, where=file)
        own = np.array(boxes[key], np.float32).reshape(-1, 6)
        read.append(BoxedPicture(str(path), path.read_bytes(), own[_with_area(own)], (size[0], size[1])))
    return read, tuple(str(kind["name"]) for kind in kinds)
