"""Pictures in the usual formats: what features on the wire are compared with."""

from __future__ import annotations

import functools
import io
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError

__all__ = ["PictureFormat", "decode_picture", "encode_picture", "header_bytes"]

PictureFormat = Literal["jpeg", "webp", "png"]

# Of one side; the first two are the formats' own.
_MOST_PIXELS: Final = {"jpeg": 65_535, "webp": 16_383, "png": 1 << 20}


def encode_picture(picture: npt.NDArray[np.uint8], kind: PictureFormat, quality: int = 95) -> bytes:
    """A picture's file.

    Args:
        picture: [h, w, 3], [h, w, 1] or [h, w].
        kind: The format.
        quality: 0 to 100, as Pillow takes it; png has none.

    Raises:
        InputError: Not such an array, or not one that the format takes.
    """
    from PIL import Image

    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or (picture.ndim == 3 and picture.shape[2] not in (1, 3))
    ):
        raise InputError(
            "a picture must be uint8 [h, w], [h, w, 1] or [h, w, 3]", got=f"{picture.dtype} {picture.shape}"
        )
    if 0 in picture.shape or max(picture.shape[:2]) > _MOST_PIXELS[kind]:
        raise InputError(
            f"a {kind} picture must have sides of 1 to {_MOST_PIXELS[kind]} pixels", got=list(picture.shape[:2])
        )
    if not 0 <= quality <= 100:
        raise InputError("the quality of a picture must be 0 to 100", got=quality)
    image = Image.fromarray(picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture)
    options: dict[str, Any] = {
        "jpeg": {"quality": quality, "optimize": True},
        "webp": {"quality": quality, "method": 6},
    }
    file = io.BytesIO()
    image.save(file, kind, **options.get(kind, {"optimize": True}))
    return file.getvalue()


def decode_picture(content: bytes) -> npt.NDArray[np.uint8]:
    """The pixels of a file from `encode_picture`, [h, w] or [h, w, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("JPEG", "WEBP", "PNG")) as image:
        return np.asarray(image)


@functools.cache
def header_bytes(kind: PictureFormat, quality: int, height: int, width: int, channels: int) -> int:
    """Bytes that a file of this format takes when there is nothing in the picture: a grey one of the same size.

    For small pictures most of a JPEG is tables; a rate with and without them tells two different things.
    """
    flat = np.full((height, width, channels), 128, np.uint8)
    return len(encode_picture(flat, kind, quality))
