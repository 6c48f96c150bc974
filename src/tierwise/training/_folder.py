"""Items of a folder with one sub-folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.artifact import ImageInput, InputEncoding, picture_pixels

__all__ = ["read_folder"]


def read_folder(
    folder: Path, labels: tuple[str, ...], encoding: InputEncoding
) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Pictures, as the encoding has them, and their classes.

    Args:
        folder: Holds a folder for each class that it has items of, named like it.
        labels: Class names of the model, in order.
        encoding: The model's input; raw pixels are decoded here and must have its size.

    Raises:
        InputError: A model that takes no pictures, no such folder, one that is named like no class, no files, one that
            is not a picture, or is not of the model's size, where it takes raw pixels.
    """
    if not isinstance(encoding, ImageInput):
        raise InputError("only a model of pictures can learn from a folder", where=folder, fix="Use --task")
    if not folder.is_dir():
        raise InputError("a folder with one folder for each class must exist", where=folder)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    strangers = [path.name for path in classes if path.name not in labels]
    if strangers:
        raise InputError(f"folders must be named like classes: {', '.join(labels)}", got=strangers[0], where=folder)
    items: list[Any] = []
    found: list[int] = []
    for path in classes:
        for file in sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith(".")):
            items.append((_pixels if encoding.encoding == "uint8" else _checked)(file, encoding))
            found.append(labels.index(path.name))
    if not items:
        raise InputError("the folders of classes must hold files", got="none", where=folder)
    return items, np.array(found, np.int64)


def _pixels(file: Path, encoding: ImageInput) -> npt.NDArray[np.uint8]:
    pixels = picture_pixels(file.read_bytes(), encoding.channels, file)
    if pixels.shape[:2] != (encoding.height, encoding.width):
        raise InputError(
            f"the picture must have {encoding.height} rows and {encoding.width} columns",
            got=pixels.shape[:2],
            where=file,
        )
    return pixels


def _checked(file: Path, encoding: ImageInput) -> bytes:
    """The file's bytes, once it is known that they can be decoded: later nobody knows which file they were."""
    content = file.read_bytes()
    picture_pixels(content, encoding.channels, file)
    return content
