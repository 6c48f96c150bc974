"""Feature tensors to bytes and back, as they cross a link: raw, whole numbers of a few bits, a factorised prior.

Beside them the usual picture formats, as what features are compared with. Torch-free.
"""

from tierwise.codecs._affine import AffineCodec, AffineTables, calibrated, read_affine, write_affine
from tierwise.codecs._codec import Codec, decode, encode
from tierwise.codecs._frame import MOST_ELEMENTS, Frame, read_frame
from tierwise.codecs._picture import PictureFormat, decode_picture, encode_picture, header_bytes
from tierwise.codecs._prior import ChannelTable, PriorTables, read_prior, whole_frequencies, write_prior
from tierwise.codecs._prior_codec import PriorCodec
from tierwise.codecs._raw import RawCodec
from tierwise.codecs._tables import CodecKind, read_codec, write_codec

__all__ = [
    "MOST_ELEMENTS",
    "AffineCodec",
    "AffineTables",
    "ChannelTable",
    "Codec",
    "CodecKind",
    "Frame",
    "PictureFormat",
    "PriorCodec",
    "PriorTables",
    "RawCodec",
    "calibrated",
    "decode",
    "decode_picture",
    "encode",
    "encode_picture",
    "header_bytes",
    "read_affine",
    "read_codec",
    "read_frame",
    "read_prior",
    "whole_frequencies",
    "write_affine",
    "write_codec",
    "write_prior",
]
