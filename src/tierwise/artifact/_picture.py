"""Encoded pictures as people see them: a camera may store what it saw lying on its side, and says so."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError

__all__ = ["opened", "picture_pixels", "picture_size", "pixels_of"]

# What a picture may be. Pillow knows many more formats, some of which start other programs or are hardly ever used.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
# EXIF's tag, its value for a picture that is stored as it is shown, and those of pictures that lie on their side.
_ORIENTATION: Final = 0x0112
_STANDING: Final = 1
_LYING: Final = range(5, 9)


@contextmanager
def opened(content: bytes, where: object, what: str = "file") -> Iterator[Any]:
    """An encoded picture, opened; its pixels are decoded when they are asked for.

    Raises:
        InputError: The bytes, which ``where`` and ``what`` name, are no picture, or break off when they are decoded.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            yield picture
    except InputError:
        raise
    except Exception as error:  # of damaged files, its plugins raise whatever their parsing stumbles over
        raise InputError(
            f"the {what} must be a picture, {', '.join(_FORMATS)} ({error})",
            got=f"{len(content)} bytes",
            where=where,
        ) from error


def picture_size(content: bytes, where: object) -> tuple[int, int]:
    """Height and width of an encoded picture as it is shown; its pixels are not decoded.

    Raises:
        InputError: The bytes are no picture.
    """
    with opened(content, where) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) in _LYING else (height, width)


def picture_pixels(content: bytes, channels: int, where: object) -> npt.NDArray[np.uint8]:
    """The pixels of an encoded picture as it is shown, uint8 [height, width, channels].

    Raises:
        InputError: The bytes are no picture.
    """
    with opened(content, where) as picture:
        return pixels_of(picture, channels)


def pixels_of(picture: Any, channels: int) -> npt.NDArray[np.uint8]:
    """The pixels of an opened picture as it is shown, uint8 [height, width, channels]."""
    pixels = np.asarray(_upright(picture).convert("L" if channels == 1 else "RGB"), np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def _upright(picture: Any) -> Any:
    """A picture as its EXIF orientation says that it is to be shown, which is how people label it."""
    if _orientation(picture) == _STANDING:
        return picture
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)


def _orientation(picture: Any) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, _STANDING)
    except Exception:  # the picture may be whole where what is told about it is not
        return _STANDING
    return value if value in range(1, 9) else _STANDING
