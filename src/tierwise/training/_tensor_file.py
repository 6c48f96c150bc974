"""Tensors in safetensors files, written so that a reader sees the old file or the new one, never a part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, UnavailableError
from tierwise.training._whole_file import write_whole

__all__ = ["Arrays", "pack", "read_tensors", "write_tensors"]

Arrays = dict[str, npt.NDArray[Any]]


def pack(tensors: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file.

    Raises:
        UnavailableError: The safetensors library is not installed.
    """
    content: bytes = _library().save({name: np.ascontiguousarray(a) for name, a in tensors.items()}, dict(about or {}))
    return content


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str]) -> None:
    """Write ``path`` anew, see `write_whole`.

    Args:
        path: The file.
        tensors: By name.
        about: Texts kept in the file's head.

    Raises:
        UnavailableError: The safetensors library is not installed.
    """
    write_whole(path, pack(tensors, about))


def read_tensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Tensors by name, and the texts of the head.

    Raises:
        InputError: No such file, or it is not a safetensors file.
        UnavailableError: The safetensors library is not installed.
    """
    _library()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"the file must be readable safetensors ({error})", where=path, fix="Give a file that this program wrote"
        ) from error


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UnavailableError(
            "training needs the safetensors library", fix="Install it with: pip install 'tierwise[training]'"
        ) from error
    return safetensors.numpy
