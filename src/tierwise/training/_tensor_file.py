"""Tensors in safetensors files, written so that a reader sees the old file or the new one, never a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, UnavailableError
from tierwise.training._whole_file import write_whole

__all__ = ["Arrays", "TensorFile", "pack", "read_tensors", "write_tensors"]

Arrays = dict[str, npt.NDArray[Any]]


def pack(tensors: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file.

    Raises:
        UnavailableError: The safetensors library is not installed.
    """
    # Of no tensors and no texts, the library makes a head that it cannot read if it is given an empty mapping.
    texts = dict(about) if about else None
    content: bytes = _library().save({name: np.ascontiguousarray(a) for name, a in tensors.items()}, texts)
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
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


@final
class TensorFile(Mapping[str, npt.NDArray[Any]]):
    """Tensors of a safetensors file, each read when it is asked for and kept by nobody but who asked.

    Args:
        path: The file.

    Raises:
        InputError: No such file, or it is not a safetensors file.
        UnavailableError: The safetensors library is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _opened(path) as file:
            self._names: tuple[str, ...] = tuple(file.keys())

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A new array."""
        if name not in self._names:
            raise KeyError(name)
        with _opened(self._path) as file:  # open all the time, it would keep in memory what was read
            tensor: npt.NDArray[Any] = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    _library()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            yield file
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
