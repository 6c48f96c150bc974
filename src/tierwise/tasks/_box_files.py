"""Pictures with boxes as others keep them: folders of YOLO text files, and COCO's JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.artifact import ImageInput, to_canvas
from tierwise.tasks._box_labels import box_labels
from tierwise.tasks._task import Split

__all__ = ["BoxedPicture", "boxed_split", "read_coco", "read_yolo", "yolo_boxes"]

Floats = npt.NDArray[np.float32]
_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@final
@dataclass(frozen=True)
class BoxedPicture:
    """A picture and its boxes.

    Attributes:
        name: Where it lies.
        content: The encoded picture.
        boxes: [k, 6]: left, top, right, bottom as shares of the picture, class, crowd (`box_labels`).
    """

    name: str
    content: bytes
    boxes: Floats


def boxed_split(pictures: Sequence[BoxedPicture], encoding: ImageInput) -> Split:
    """A split of pictures, its labels on the canvas that ``encoding`` puts them on.

    Raises:
        InputError: A picture cannot be read, or a box is none.
    """
    from PIL import Image, UnidentifiedImageError

    placed = []
    for picture in pictures:
        try:
            with Image.open(io.BytesIO(picture.content)) as opened:
                width, height = opened.size
        except (UnidentifiedImageError, OSError) as error:
            raise InputError("the file must be a picture in a format Pillow reads", where=picture.name) from error
        boxes = picture.boxes.copy()
        boxes[:, :4] = np.clip(to_canvas(boxes[:, :4], encoding, height, width), 0.0, 1.0)
        placed.append(boxes)
    return Split([picture.content for picture in pictures], box_labels(placed))


def yolo_boxes(text: str, where: str, classes: int) -> Floats:
    """Boxes of one YOLO file: a line each of class, centre x, centre y, width, height as shares of the picture.

    Boxes that reach out of the picture by rounding are cut at its border; what has no area then is left out.

    Raises:
        InputError: A line has another form, or a class that is not there.
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
        x, y, width, height = values
        corners = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0.0, 1.0)
        if corners[2] > corners[0] and corners[3] > corners[1]:
            rows.append([*corners, kind, 0.0])
    return np.array(rows, np.float32).reshape(-1, 6)


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
        text = told.read_text(encoding="utf-8") if told.is_file() else ""
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
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kinds = sorted(told["categories"], key=lambda kind: int(kind["id"]))
        place = {int(kind["id"]): i for i, kind in enumerate(kinds)}
        sizes = {one["id"]: (float(one["width"]), float(one["height"])) for one in told["images"]}
        boxes: dict[Any, list[list[float]]] = {one["id"]: [] for one in told["images"]}
        for one in told["annotations"]:
            x, y, width, height = map(float, one["bbox"])
            across, down = sizes[one["image_id"]]
            corners = np.clip([x / across, y / down, (x + width) / across, (y + height) / down], 0.0, 1.0)
            if corners[2] > corners[0] and corners[3] > corners[1]:
                row = [*corners, float(place[int(one["category_id"])]), float(one.get("iscrowd", 0))]
                boxes[one["image_id"]].append(row)
        names = [(one["id"], str(one["file_name"])) for one in told["images"]]
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"the file must be COCO's JSON: images, annotations, categories ({type(error).__name__}: {error})",
            where=file,
        ) from error
    read = []
    for key, name in names:
        path = pictures / name
        if not path.is_file() or not path.resolve().is_relative_to(pictures.resolve()):
            raise InputError("a picture that the file names must lie in the folder", got=name, where=file)
        read.append(BoxedPicture(str(path), path.read_bytes(), np.array(boxes[key], np.float32).reshape(-1, 6)))
    return read, tuple(str(kind["name"]) for kind in kinds)
