"""Latents as whole numbers of a few bits, with ranges that were fixed when the artifact was made."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import Any, Final, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError
from tierwise.codecs._frame import check_count

__all__ = ["AffineCodec", "AffineTables", "calibrated", "read_affine", "write_affine"]


# Computing stays within 32-bit floats.
_LARGEST: Final = 1e30
# Eight codes are packed at once, in a number whose first byte is its highest.
_SWAP: Final = sys.byteorder == "little"
_FOLDS: Final = tuple(
    (lane, np.uint64(low))
    for lane, low in ((8, 0x00FF_00FF_00FF_00FF), (16, 0x0000_FFFF_0000_FFFF), (32, 0x0000_0000_FFFF_FFFF))
)


@final
@dataclass(frozen=True)
class AffineTables:
    """The range of each channel.

    Attributes:
        bits: Of a value on the wire, 1 to 8.
        low: What the code 0 stands for, by channel.
        step: Distance from one code to the next, by channel; above 0.
    """

    bits: int
    low: tuple[float, ...]
    step: tuple[float, ...]


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    bits: int
    low: list[float]
    step: list[float]


def write_affine(tables: AffineTables) -> bytes:
    """The tables as they lie in an artifact."""
    return msgspec.msgpack.encode(_Stored(1, tables.bits, list(tables.low), list(tables.step)))


def read_affine(content: bytes) -> AffineTables:
    """The inverse of `write_affine`.

    Raises:
        ArtifactError: The bytes are not such tables.
    """
    try:
        stored = msgspec.msgpack.decode(content, type=_Stored)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"the ranges of a codec must be as they were written ({error})") from error
    sound = stored.version == 1 and 1 <= stored.bits <= 8 and len(stored.low) == len(stored.step) > 0
    sound = sound and all(abs(low) <= _LARGEST for low in stored.low)
    if not sound or not all(1 / _LARGEST <= step <= _LARGEST for step in stored.step):
        raise ArtifactError(
            "the ranges of a codec must be one low and one step above 0 for each channel that 32-bit floats can bear, "
            "with 1 to 8 bits",
            got=f"version {stored.version}, {stored.bits} bits, {len(stored.low)} lows, {len(stored.step)} steps",
        )
    return AffineTables(stored.bits, tuple(stored.low), tuple(stored.step))


def calibrated(latents: npt.NDArray[Any], bits: int) -> AffineTables:
    """Tables that cover what each channel was seen to take.

    Args:
        latents: [n, c, ...] of the calibration items.
        bits: 1 to 8.

    Raises:
        InputError: Nothing to learn from, or values beyond 1e30.
    """
    if not 1 <= bits <= 8 or latents.ndim < 2 or latents.size == 0 or not (np.abs(latents) <= _LARGEST).all():
        raise InputError(
            "ranges must be learnt from latents [n, c, ...] within 1e30 for 1 to 8 bits",
            got=f"{bits} bits, {latents.dtype} {list(latents.shape)}",
        )
    rows = np.moveaxis(latents, 1, 0).reshape(latents.shape[1], -1).astype(np.float64)
    low, high = rows.min(1), rows.max(1)
    step = (high - low) / (2**bits - 1)
    # A channel that never changes needs no steps, but one of 0, or that 32-bit floats cannot tell from it, could not be
    # divided by.
    step = np.where(step >= 1 / _LARGEST, step, 1.0)
    return AffineTables(bits, tuple(low.tolist()), tuple(step.tolist()))


@final
class AffineCodec:
    """Codes latents [n, c, ...]; fewer channels than the tables have are a prefix, the rest decodes to its low.

    Args:
        tables: Of all channels.
    """

    NUMBER: Final = 2

    def __init__(self, tables: AffineTables) -> None:
        self.tables = tables
        self.tag = hashlib.sha256(write_affine(tables)).digest()
        self._low, self._step = np.array(tables.low, np.float32), np.array(tables.step, np.float32)

    def pack(self, tensor: npt.NDArray[Any]) -> tuple[bytes, int]:
        """Payload and flags of a latent; values outside a channel's range become its ends.

        Raises:
            InputError: More channels than tables, or values that are not numbers.
        """
        low, step = self._along(tensor.shape)
        with np.errstate(over="ignore"):  # infinity is outside every range too
            scaled = tensor - low
            scaled /= step
        np.rint(scaled, out=scaled)
        # The largest of values is nan where any of them is.
        if scaled.size and np.isnan(scaled.max()):
            raise InputError("values of a latent must be numbers", got="nan")
        np.clip(scaled, 0, 2**self.tables.bits - 1, out=scaled)
        return _packed(scaled.astype(np.uint8).ravel(), self.tables.bits), 0

    def unpack(self, payload: bytes, flags: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The latent [n, all channels, ...] of a payload.

        Raises:
            InputError: The payload cannot be of this shape.
        """
        low, step = self._along(shape)
        check_count((shape[0], len(self._low), *shape[2:]))
        count, bits = int(np.prod(shape, dtype=np.int64)), self.tables.bits
        if len(payload) != -(-count * bits // 8):
            raise InputError(
                f"{count} values of {bits} bits must come as {-(-count * bits // 8)} bytes", got=len(payload)
            )
        codes = _unpacked(payload, bits, count).reshape(shape)
        sent = codes * step + low
        if shape[1] == len(self._low):
            return sent
        whole = np.empty((shape[0], len(self._low), *shape[2:]), np.float32)
        whole[:] = self._low.reshape(-1, *[1] * (len(shape) - 2))
        whole[:, : shape[1]] = sent
        return whole

    def _along(self, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        if len(shape) < 2 or not 0 <= shape[1] <= len(self._low):
            raise InputError(
                f"a latent must be [items, channels, ...] with at most {len(self._low)} channels", got=list(shape)
            )
        form = (shape[1], *[1] * (len(shape) - 2))
        return self._low[: shape[1]].reshape(form), self._step[: shape[1]].reshape(form)


def _packed(codes: npt.NDArray[np.uint8], bits: int) -> bytes:
    """The lowest bits of all codes one behind the other, each from its highest; the last byte is filled with 0."""
    if bits == 8:
        return codes.tobytes()
    count = len(codes)
    eights = np.zeros(-(-count // 8), np.uint64)
    eights.view(np.uint8)[:count] = codes
    eights.byteswap(inplace=_SWAP)
    for lane, low in _FOLDS:
        # Two neighbours of ``lane`` bits hold so many of a code each: the higher one moves down to the lower.
        used = bits * lane // 8
        eights = (eights & ~low) >> np.uint64(lane - used) | eights & low
    eights.byteswap(inplace=_SWAP)
    return eights.view(np.uint8).reshape(-1, 8)[:, 8 - bits :].tobytes()[: -(-count * bits // 8)]


def _unpacked(payload: bytes, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """The inverse of `_packed`."""
    received = np.frombuffer(payload, np.uint8)
    if bits == 8:
        return received
    eights = np.zeros(-(-count // 8), np.uint64)
    whole, rest = divmod(len(received), bits)
    lanes = eights.view(np.uint8).reshape(-1, 8)
    lanes[:whole, 8 - bits :] = received[: whole * bits].reshape(whole, bits)
    if rest:
        lanes[whole, 8 - bits : 8 - bits + rest] = received[whole * bits :]
    eights.byteswap(inplace=_SWAP)
    for lane, low in reversed(_FOLDS):
        used = bits * lane // 8
        kept = low & (low >> np.uint64(lane - used))
        eights = (eights << np.uint64(lane - used)) & ~low | eights & kept
    eights.byteswap(inplace=_SWAP)
    return eights.view(np.uint8)[:count]
