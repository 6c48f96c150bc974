"""Weights that training never changes, as they lie in their file: mapped once for all sessions, copied for none."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError

__all__ = ["Frozen", "places"]

_TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}


def places(head: bytes | mmap.mmap) -> dict[str, tuple[int, int, dict[str, Any]]]:
    """Where tensors lie in a safetensors file: first byte, count of bytes, and the entry of its header.

    Args:
        head: The file, or its beginning with all of the header.
    """
    size = int.from_bytes(head[:8], "little")
    entries = json.loads(bytes(head[8 : 8 + size]))
    spans = {name: (one["data_offsets"], one) for name, one in entries.items() if name != "__metadata__"}
    return {name: (8 + size + first, last - first, one) for name, ((first, last), one) in spans.items()}


@final
class Frozen:
    """Frozen weights as ONNX Runtime's values over the mapped file.

    What nobody has read yet takes no memory; what was read can be dropped again at any time, by the system too, since
    it stands in the file.

    Args:
        path: Of the safetensors file.

    Attributes:
        values: By the names that graphs know them by. Good as long as this object.

    Raises:
        ArtifactError: It cannot be mapped or read.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays = {name: self._array(*place) for name, place in places(self._map).items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"the frozen weights must be a readable safetensors file ({error})", where=path
            ) from error
        # Over the very memory of the arrays, which is never written: they are initialisers and nothing else.
        self.values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        self._arrays = arrays

    def _array(self, first: int, count: int, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
        kind = np.dtype(_TYPES[entry["dtype"]])
        return np.frombuffer(self._map, kind, count // kind.itemsize, first).reshape(entry["shape"])

    def release(self) -> None:
        """Leave the memory of what was read to others; the next reader finds it in the file, or still in the cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
