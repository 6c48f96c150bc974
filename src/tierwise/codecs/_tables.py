"""From the tables that an artifact holds to the codec that uses them, and back."""

from __future__ import annotations

from typing import Literal

from tierwise.codecs._affine import AffineCodec, read_affine, write_affine
from tierwise.codecs._codec import Codec
from tierwise.codecs._prior import read_prior, write_prior
from tierwise.codecs._prior_codec import PriorCodec
from tierwise.codecs._raw import RawCodec

__all__ = ["CodecKind", "read_codec", "write_codec"]

CodecKind = Literal["raw", "affine", "prior"]


def read_codec(kind: CodecKind, tables: bytes) -> Codec:
    """The codec of these tables.

    Args:
        kind: Which.
        tables: As `write_codec` gives them; ``raw`` has none.

    Raises:
        InputError: They are no tables of this kind.
    """
    if kind == "prior":
        return PriorCodec(read_prior(tables))
    return AffineCodec(read_affine(tables)) if kind == "affine" else RawCodec()


def write_codec(codec: Codec) -> tuple[CodecKind, bytes]:
    """Kind and tables of a codec."""
    if isinstance(codec, PriorCodec):
        return "prior", write_prior(codec.tables)
    if isinstance(codec, AffineCodec):
        return "affine", write_affine(codec.tables)
    return "raw", b""
