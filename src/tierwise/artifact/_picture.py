"""Encoded pictures as people see them: a camera may store what it saw lying on its side, and says so."""

from __future__ import annotations

import io
from typing import Any, Final

from tierwise._errors import InputError

__all__ = ["PICTURE_FORMATS", "picture_size", "upright"]

# What a picture may be. Pillow knows many more formats, some of which start other programs or are hardly ever used.
PICTURE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
# EXIF's tag, its value for a picture that is stored as it is shown, and those of pictures that lie on their side.
_ORIENTATION: Final = 0x0112
_STANDING: Final = 1
_LYING: Final = range(5, 9)


def picture_size(content: bytes, where: str) -> tuple[int, int]:
    """Height and width of an encoded picture as it is shown; its pixels are not decoded.

    Raises:
        InputError: The bytes are no picture.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
            return (width, height) if _orientation(picture) in _LYING else (height, width)
    except Exception as error:  # of damaged files, its plugins raise whatever their parsing stumbles over
        raise InputError(
            f"the file must be a picture, {', '.join(PICTURE_FORMATS)} ({error})",
            got=f"{len(content)} bytes",
            where=where,
        ) from error


def upright(picture: Any) -> Any:
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
