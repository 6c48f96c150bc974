"""A latent on its way from one node to the next: sealed in a frame behind the head, opened before the tail."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError, UnavailableError
from tierwise.artifact import Artifact, Boundary, TensorSpec
from tierwise.codecs import (
    MOST_ELEMENTS,
    AffineCodec,
    Codec,
    Frame,
    PriorCodec,
    encode,
    read_codec,
    read_frame,
)

__all__ = ["Seal", "seal_at"]

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
        self._latent = spec
        known = _channels(self._codec)
        if len(spec.shape) < 2 or spec.dtype != "FP32" or known not in (None, spec.shape[1]):
            raise ArtifactError(
                f"the tables of a codec must be those of the latent, FP32 {list(spec.shape)}",
                got=f"{known} channels",
                where=artifact.directory / boundary.tables,
                fix="Build the artifact again",
            )
        self._allowed = [rate.channels for rate in boundary.rates]
        # Without tables nobody knows what the channels left out are.
        self._whole = known is None
        if max(self._allowed) > spec.shape[1] or (self._whole and min(self._allowed) < spec.shape[1]):
            raise ArtifactError(
                f"the rates of a latent must send 1 to {spec.shape[1]} channels, all of them where the codec is raw",
                got=self._allowed,
                where=artifact.directory,
                fix="Build the artifact again",
            )
        self._tag = _tag(artifact, border, boundary)
        self.spec = TensorSpec(name=spec.name, dtype="UINT8", shape=(-1,))

    def check_channels(self, channels: int | None) -> None:
        """Whether so many channels may be sent.

        Raises:
            InputError: No rate of the artifact is that.
        """
        if channels is not None and channels not in self._allowed:
            raise InputError(f"the channels sent must be one of {self._allowed}", got=channels, where="share")

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
            InputError: As `read`, or its payload is not one of the codec's.
            UnavailableError: As `read`.
        """
        return self.unpack(tensors, self.read(tensors))

    def read(self, tensors: Mapping[str, npt.NDArray[Any]], most_elements: int = MOST_ELEMENTS) -> Frame:
        """The frame among the tensors, for `unpack`; nothing is decoded yet: a few bytes can stand for gigabytes.

        Args:
            tensors: As they came.
            most_elements: Elements of the latent that the frame may stand for.

        Raises:
            InputError: The latent is missing, no frame, or not of a form that this border lets pass.
            UnavailableError: The frame was made for another tail: each side may be right, but not with the other.
        """
        came = tensors.get(self.spec.name)
        if came is None or came.dtype != np.uint8 or came.ndim != 1:
            raise InputError(
                "a coded tensor must come as the bytes of a frame, UINT8 [bytes]",
                got="none" if came is None else f"{came.dtype} {list(came.shape)}",
                where=self.spec.name,
            )
        frame, (_, channels, *sides) = read_frame(came.tobytes()), self._latent.shape
        if not frame.is_of(self._codec.NUMBER, self._tag):
            raise UnavailableError(
                "a frame must come from the encoder and the tables that this tail was made for",
                got=f"codec {frame.codec}, tag {frame.tag.hex()}",
                where=self.spec.name,
                fix="Deploy both parts from one artifact",
            )
        shape = frame.shape
        fits = len(shape) == 2 + len(sides) and list(shape[2:]) == sides
        if not fits or shape[1] > channels or (self._whole and shape[1] < channels):
            raise InputError(
                f"a frame must hold items of shape {[channels, *sides]}"
                + ("" if self._whole else ", or their first channels"),
                got=list(shape[1:]),
                where=self.spec.name,
            )
        most_items = most_elements // (channels * math.prod(sides))
        if shape[0] > most_items:
            raise InputError(
                f"a frame must hold at most {most_items} items of shape {[channels, *sides]}",
                got=shape[0],
                where=self.spec.name,
                fix="Send fewer items at once, or raise limits.inputs.latent_elements of the node",
            )
        return frame

    def elements(self, frame: Frame) -> int:
        """Elements of the latent that a frame stands for."""
        return frame.shape[0] * math.prod(self._latent.shape[1:])

    def unpack(self, tensors: Mapping[str, npt.NDArray[Any]], frame: Frame) -> Tensors:
        """``tensors`` with the latent that ``frame``, found among them by `read`, stands for.

        Raises:
            InputError: Its payload is not one of the codec's.
        """
        latent = self._codec.unpack(frame.payload, frame.flags, frame.shape)
        return {**tensors, self.spec.name: np.ascontiguousarray(latent)}

    def through(self, tensors: Mapping[str, npt.NDArray[Any]], channels: int | None = None) -> Tensors:
        """What arrives behind the border: where both segments run in one process, answers stay the same.

        Raises:
            InputError: As `close`.
        """
        latent = tensors[self.spec.name]
        # As many items as one frame holds at a time: nothing here is a stranger's, and a batch may have any size.
        size = max(1, MOST_ELEMENTS // math.prod(self._latent.shape[1:]))
        arrived = []
        for at in range(0, max(1, len(latent)), size):
            made = self.close({self.spec.name: latent[at : at + size]}, channels)
            arrived.append(self.open(made)[self.spec.name])
        return {**tensors, self.spec.name: arrived[0] if len(arrived) == 1 else np.concatenate(arrived)}


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
