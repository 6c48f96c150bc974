"""A latent on its way from one node to the next: sealed in a frame behind the head, opened before the tail."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError
from tierwise.artifact import Artifact, Boundary, TensorSpec
from tierwise.codecs import AffineCodec, Codec, PriorCodec, decode, encode, read_codec, read_frame

__all__ = ["Seal", "seal_at"]

_MOST_ITEMS: Final = 4096

Tensors = dict[str, npt.NDArray[Any]]


def seal_at(artifact: Artifact, border: int) -> Seal | None:
    """The seal of what crosses the border before segment ``border``; None where it crosses as it is.

    Raises:
        ArtifactError: The codec's tables are missing, broken, or of another latent.
    """
    segments = artifact.manifest.segments
    if not 0 < border < len(segments):
        return None
    segment = segments[border - 1]
    if segment.boundary is None:
        return None
    made = {spec.name: spec for spec in segment.outputs}
    if segment.boundary.tensor not in made:
        raise ArtifactError(
            "a coded tensor must be an output of its segment", got=repr(segment.boundary.tensor), where=segment.file
        )
    return Seal(artifact, border, segment.boundary, made[segment.boundary.tensor])


@final
class Seal:
    """One boundary's codec; may be used from several threads.

    Frames name what made them: the segments before the border, and the tables. Every artifact holds both, also where
    only its tail is served; so several tails (of several tasks) that were trained for one encoder read its frames, and
    one that was trained for another refuses them.

    Args:
        artifact: Holds the tables.
        border: Number of segments before it.
        boundary: How the tensor is coded.
        spec: The tensor.

    Attributes:
        spec: The frame as a tensor, ``UINT8 [-1]``.

    Raises:
        ArtifactError: The tables are missing, broken, or of another latent.
    """

    def __init__(self, artifact: Artifact, border: int, boundary: Boundary, spec: TensorSpec) -> None:
        self._codec = _codec(artifact, boundary)
        self._boundary, self._latent = boundary, spec
        known = _channels(self._codec)
        if len(spec.shape) < 2 or spec.dtype != "FP32" or known not in (None, spec.shape[1]):
            raise ArtifactError(
                f"the tables of a codec must be those of the latent, FP32 {list(spec.shape)}",
                got=f"{known} channels",
                where=artifact.directory / boundary.tables,
                fix="Build the artifact again",
            )
        self._tag = _tag(artifact, border, boundary)
        self.spec = TensorSpec(name=spec.name, dtype="UINT8", shape=(-1,))

    def check_channels(self, channels: int | None) -> None:
        """Whether so many channels may be sent.

        Raises:
            InputError: No rate of the artifact is that.
        """
        allowed = [rate.channels for rate in self._boundary.rates]
        if channels is not None and channels not in allowed:
            raise InputError(f"the channels sent must be one of {allowed}", got=channels, where="share")

    def close(self, tensors: Mapping[str, npt.NDArray[Any]], channels: int | None = None) -> Tensors:
        """``tensors`` with the latent as the bytes of a frame; ``channels`` of it are sent, None: all.

        Raises:
            InputError: The latent holds values that cannot be coded.
        """
        frame = encode(self._codec, tensors[self.spec.name], channels, self._tag)
        return {**tensors, self.spec.name: np.frombuffer(frame, np.uint8)}

    def open(self, tensors: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """The inverse of `close`.

        Raises:
            InputError: The latent is missing or no frame of this artifact.
        """
        frame = tensors.get(self.spec.name)
        if frame is None or frame.dtype != np.uint8 or frame.ndim != 1:
            raise InputError(
                "a coded tensor must come as the bytes of a frame, UINT8 [bytes]",
                got="none" if frame is None else f"{frame.dtype} {list(frame.shape)}",
                where=self.spec.name,
            )
        content, (_, channels, *sides) = frame.tobytes(), self._latent.shape
        shape = read_frame(content).shape
        # Known before anything is decoded: a few bytes can stand for a tensor that takes a minute.
        if len(shape) != 2 + len(sides) or list(shape[2:]) != sides or shape[1] > channels:
            raise InputError(
                f"a frame must hold items of shape {[channels, *sides]}", got=list(shape[1:]), where=self.spec.name
            )
        latent = decode(self._codec, content, _MOST_ITEMS * channels * math.prod(sides), self._tag)
        return {**tensors, self.spec.name: np.ascontiguousarray(latent)}

    def through(self, tensors: Mapping[str, npt.NDArray[Any]], channels: int | None = None) -> Tensors:
        """What `open` gives for what `close` gave: where both segments run in one process, answers stay the same."""
        return {**tensors, **self.open(self.close(tensors, channels))}


def _tag(artifact: Artifact, border: int, boundary: Boundary) -> bytes:
    """Hash of the encoder and the tables, by their contents: what their files are called does not matter."""
    hashes = {entry.name: entry.sha256 for entry in artifact.manifest.files}
    names = [*(segment.file for segment in artifact.manifest.segments[:border]), boundary.tables]
    return hashlib.sha256(repr([hashes[name] for name in names]).encode()).digest()


def _codec(artifact: Artifact, boundary: Boundary) -> Codec:
    if boundary.tables not in {entry.name for entry in artifact.manifest.files}:
        raise ArtifactError(
            "the tables of a codec must be among the artifact's files",
            got=repr(boundary.tables),
            where=artifact.directory,
        )
    return read_codec(boundary.codec, artifact.path(boundary.tables).read_bytes())


def _channels(codec: Codec) -> int | None:
    if isinstance(codec, PriorCodec):
        return len(codec.tables.channels)
    return len(codec.tables.low) if isinstance(codec, AffineCodec) else None
