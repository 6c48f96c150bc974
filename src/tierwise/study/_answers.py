"""Every variant's answer to every item of the test split: what accuracies are compared by. No torch."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import StoreError

__all__ = ["Answers", "Examined", "keep_examined", "load_examined", "packed", "unpacked"]

_FOLDER = "answers"
_WIDTHS = (2, 4, 8)
Integers = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class Answers:
    """Classes of the test items, as they are and as each variant took them for.

    Attributes:
        labels: Class of each item, in the order of the split, [n].
        predicted: By variant the class that it answered, [n]; variants that were examined by an earlier release, which
            kept none, are not in it.
    """

    labels: Integers
    predicted: Mapping[str, Integers]


@final
class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """One variant's only pass over the test split, as it is kept beside the artifacts until the store has it.

    Attributes:
        digest: Of the artifact before its accuracy was written into it.
        labels: `packed`.
        predicted: `packed`.
    """

    digest: str
    labels: bytes
    predicted: bytes


def packed(classes: npt.NDArray[np.integer]) -> bytes:
    """Classes as bytes: the width of an integer (2, 4 or 8), then zlib over little-endian integers of that width."""
    width = next(
        size for size in _WIDTHS if not len(classes) or np.abs(classes.astype(np.int64)).max() < 2 ** (8 * size - 1)
    )
    return bytes([width]) + zlib.compress(classes.astype(f"<i{width}").tobytes(), 6)


def unpacked(content: bytes, where: object) -> Integers:
    """What `packed` was given, [n].

    Args:
        content: Its bytes.
        where: Named by the error.

    Raises:
        StoreError: They were damaged.
    """
    try:
        if content[0] not in _WIDTHS:
            raise ValueError(f"integers of {content[0]} bytes")
        return np.frombuffer(zlib.decompress(content[1:]), dtype=f"<i{content[0]}").astype(np.int64)
    except (IndexError, ValueError, zlib.error) as error:
        raise StoreError(
            f"answers to test items must be readable ({error})",
            where=where,
            fix="Restore the file from a copy, or start the study anew in another directory",
        ) from error


def keep_examined(directory: Path, variant: str, examined: Examined) -> None:
    """Write what a variant answered, all or nothing, before its accuracy is recorded.

    Args:
        directory: The study's.
        variant: Its key.
        examined: What to write.
    """
    path = _path(directory, variant)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    with stage.open("wb") as file:
        file.write(msgspec.msgpack.encode(examined))
        file.flush()
        os.fsync(file.fileno())
    stage.replace(path)


def load_examined(directory: Path, variant: str) -> Examined | None:
    """What `keep_examined` wrote; None where there is nothing, or nothing that can be read."""
    try:
        return msgspec.msgpack.decode(_path(directory, variant).read_bytes(), type=Examined)
    except (OSError, msgspec.DecodeError):
        return None


def _path(directory: Path, variant: str) -> Path:
    return directory / _FOLDER / f"{variant}.msgpack"
