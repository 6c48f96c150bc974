"""The golden input: one request whose answer is known, to see that a deployment answers what the artifact does."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, Final, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import RemoteError
from tierwise._seeds import stream
from tierwise.artifact import PAYLOAD_INPUT, Artifact, ImageInput, InputEncoding, Preprocessor, TextInput, to_payload
from tierwise.runtime import Executor

__all__ = ["GOLDEN", "Golden", "deviation_frac", "expected_outputs", "made_up"]

GOLDEN: Final = "golden"
"""Name of the fact in the study's database."""

_FREE_AXIS: Final = 16
_DTYPES: Final[dict[str, Any]] = {
    "FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "UINT8": np.uint8, "INT8": np.int8,
    "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip

Tensors = Mapping[str, npt.NDArray[Any]]


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor; ``dtype`` as NumPy writes it, ``object`` for byte strings, each an element of ``content``."""

    dtype: str
    shape: tuple[int, ...]
    content: tuple[bytes, ...]


@final
class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A request's tensors as the study's database keeps them."""

    kept: dict[str, _Kept]

    @staticmethod
    def of(tensors: Tensors) -> Golden:
        """The golden input made of a request's tensors."""
        return Golden(
            kept={
                name: _Kept(
                    dtype=tensor.dtype.str if tensor.dtype != object else "object",
                    shape=tensor.shape,
                    content=tuple(tensor.ravel()) if tensor.dtype == object else (tensor.tobytes(),),
                )
                for name, tensor in tensors.items()
            }
        )

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The inverse of `of`."""
        found: dict[str, npt.NDArray[Any]] = {}
        for name, kept in self.kept.items():
            if kept.dtype == "object":
                column = np.empty(len(kept.content), dtype=object)
                column[:] = kept.content
                found[name] = column.reshape(kept.shape)
            else:
                found[name] = np.frombuffer(kept.content[0], dtype=kept.dtype).reshape(kept.shape)
        return found


def made_up(encoding: InputEncoding) -> dict[str, npt.NDArray[Any]]:
    """A request of seeded noise, for a study that kept no input."""
    generator = stream(0, "golden")
    if isinstance(encoding, TextInput):
        text = "a golden input"
        return {PAYLOAD_INPUT: to_payload(encoding, [(text, text) if encoding.pair else text])}
    if isinstance(encoding, ImageInput):
        pixels = generator.integers(0, 256, (encoding.height, encoding.width, encoding.channels), dtype=np.uint8)
        item = pixels if encoding.encoding == "uint8" else _encoded(pixels, encoding.encoding)
        return {PAYLOAD_INPUT: to_payload(encoding, [item])}
    found: dict[str, npt.NDArray[Any]] = {}
    for spec in encoding.tensors:
        shape = (1, *(_FREE_AXIS if axis < 0 else axis for axis in spec.shape[1:]))
        if spec.shape and spec.shape[0] > 0:
            shape = (spec.shape[0], *shape[1:])
        dtype = _DTYPES[spec.dtype]
        drawn = generator.standard_normal(shape) if spec.dtype.startswith("FP") else generator.integers(0, 2, shape)
        found[spec.name] = drawn.astype(dtype)
    return found


def _encoded(pixels: npt.NDArray[np.uint8], encoding: str) -> bytes:
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(picture, format=encoding.upper())
    return picture.getvalue()


def expected_outputs(artifact: Artifact, request: Tensors) -> dict[str, npt.NDArray[Any]]:
    """What the artifact answers to a request when it is run here, without nodes.

    Raises:
        TierwiseError: The artifact cannot be run, or the request does not fit it.
    """
    tensors = Preprocessor(artifact.manifest.input, artifact.directory)(request)
    return Executor(artifact).run(tensors)


def deviation_frac(expected: Tensors, answered: Tensors, where: str) -> float:
    """The largest difference between two answers, as a share of the range of the expected values.

    Integer models differ by a step or two between instruction sets, a small share of that range; another model, or
    tensors mixed up on the way, are not.

    Raises:
        RemoteError: An output is missing, has another shape or type, or holds values that are not finite.
    """
    largest = 0.0
    for name, wanted in expected.items():
        if name not in answered:
            raise RemoteError(f"the answer must hold the output {name!r}", got=sorted(answered), where=where)
        got = answered[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise RemoteError(
                f"the output {name!r} must be {wanted.dtype} {list(wanted.shape)}",
                got=f"{got.dtype} {list(got.shape)}",
                where=where,
            )
        if not wanted.size:
            continue
        if wanted.dtype.kind not in "fiub":
            largest = max(largest, 0.0 if np.array_equal(got, wanted) else math.inf)
            continue
        plain, seen = wanted.astype(np.float64), got.astype(np.float64)
        if np.isfinite(plain).all() and not np.isfinite(seen).all():
            raise RemoteError(f"the output {name!r} must be finite", where=where)
        # The magnitude too: a single score has no range of its own.
        span = max(float(np.ptp(plain)), float(np.abs(plain).max()), 1e-12)
        largest = max(largest, float(np.abs(seen - plain).max()) / span)
    return largest
