"""Frames and the simpler codecs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwise._errors import ArtifactError, InputError, TierwiseError
from tierwise.codecs import (
    AffineCodec,
    AffineTables,
    Frame,
    RawCodec,
    calibrated,
    decode,
    decode_picture,
    encode,
    encode_picture,
    header_bytes,
    read_affine,
    read_frame,
    write_affine,
)

GOLDEN = np.array([[[0.4, 1.0, 1.6, 2.2, 3.5], [-1.0, -0.7, -0.4, 0.0, 0.7]]], np.float32)


def latents(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "most"),
    [((1, 24, 55, 55), 16), ((1, 512, 200, 300), 16), ((4, 3, 8, 8), 14), ((1, 16383, 16383, 16383), 16)],
)
def test_a_frame_adds_at_most_sixteen_bytes(shape, most):
    content = Frame(2, b"abc", shape, b"payload", 5).encode()
    assert len(content) - len(b"payload") <= most
    assert read_frame(content) == Frame(2, b"abc", shape, b"payload", 5)


def test_the_bytes_of_a_frame_never_change():
    assert Frame(3, b"\1\2\3", (1, 300, 2), b"xy", 1).encode().hex() == "541333010203ac02027879bbee0177"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_frame_or_refused(content):
    try:
        read_frame(content)
    except InputError:
        return


def test_every_damaged_byte_is_noticed():
    content = encode(RawCodec(), latents(1, 2, 3))
    for i in range(len(content)):
        with pytest.raises(InputError):
            decode(RawCodec(), content[:i] + bytes([content[i] ^ 0x11]) + content[i + 1 :])
    with pytest.raises(InputError):
        decode(RawCodec(), content[:-1])


def test_raw_loses_nothing():
    latent = latents(2, 3, 4, 4)
    np.testing.assert_array_equal(decode(RawCodec(), encode(RawCodec(), latent)), latent)


@pytest.mark.parametrize("bits", range(1, 9))
def test_affine_loses_half_a_step_at_most_and_takes_its_bits(bits):
    latent = latents(3, 5, 7, 3)
    codec = AffineCodec(calibrated(latent, bits))
    content = encode(codec, latent)
    assert len(read_frame(content).payload) == -(-latent.size * bits // 8)
    half = np.array(codec.tables.step).reshape(5, 1, 1) / 2
    assert (np.abs(decode(codec, content) - latent) <= half * (1 + 1e-5)).all()


@settings(max_examples=100, deadline=None)
@given(bits=st.integers(1, 8), codes=st.lists(st.integers(0, 255), max_size=40))
def test_codes_lie_one_behind_the_other_from_the_highest_bit(bits, codes):
    codes = [code % 2**bits for code in codes]
    codec = AffineCodec(AffineTables(bits, (0.0,), (1.0,)))
    payload, _ = codec.pack(np.array([[codes]], np.float32))
    line = "".join(f"{code:0{bits}b}" for code in codes)
    line = line.ljust(-(-len(line) // 8) * 8, "0")
    assert payload == bytes(int(line[i : i + 8], 2) for i in range(0, len(line), 8))
    assert codec.unpack(payload, 0, (1, 1, len(codes))).ravel().tolist() == codes


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(3, "541231ef5eb4020529ce0a9c0db56f84"), (8, "5412316d80a002050102030407000102040795de7a30")],
)
def test_the_bytes_of_affine_codes_never_change(bits, expected):
    codec = AffineCodec(AffineTables(bits, (0.0, -1.0), (0.5, 0.25)))
    assert encode(codec, GOLDEN).hex() == expected


def test_affine_keeps_to_its_range_where_a_value_does_not():
    codec = AffineCodec(AffineTables(4, (0.0,), (1.0,)))
    sent = np.array([[[-9.0, 3.4, 99.0, np.inf, -np.inf]]], np.float32)
    assert decode(codec, encode(codec, sent)).ravel().tolist() == [0, 3, 15, 15, 0]
    with pytest.raises(InputError, match="numbers"):
        encode(codec, np.full((1, 1, 1), np.nan, np.float32))


def test_affine_fills_channels_that_were_not_sent_with_their_low():
    codec = AffineCodec(AffineTables(8, (0.0, -2.0), (0.1, 0.1)))
    found = decode(codec, encode(codec, np.ones((1, 2, 3), np.float32), channels=1))
    np.testing.assert_allclose(found[0], [[1.0] * 3, [-2.0] * 3], rtol=1e-6)


def test_a_channel_that_never_changes_comes_back():
    codec = AffineCodec(calibrated(np.full((2, 1, 4), 7.5, np.float32), 8))
    assert decode(codec, encode(codec, np.full((1, 1, 4), 7.5, np.float32))).tolist() == [[[7.5] * 4]]


def test_a_frame_of_other_tables_is_refused():
    one, other = (AffineCodec(calibrated(latents(2, 3, 4, seed=seed), 8)) for seed in (1, 2))
    content = encode(one, latents(1, 3, 4))
    for codec in (other, RawCodec()):
        with pytest.raises(InputError, match="one artifact"):
            decode(codec, content)


def test_a_frame_cannot_demand_memory():
    raw, affine = RawCodec(), AffineCodec(calibrated(latents(2, 64, 4), 8))
    # Nothing in an axis of 0, yet too much beside it; few channels that become many.
    for codec, shape in ((raw, (1, 60000, 60000, 60000)), (raw, (0, 1 << 30, 1 << 30)), (affine, (1 << 22, 0))):
        with pytest.raises(InputError, match="at most"):
            decode(codec, Frame(codec.NUMBER, codec.tag[:3], shape, b"").encode())
    with pytest.raises(InputError, match="at most 23 elements"):
        decode(raw, encode(raw, latents(2, 3, 4)), 23)


def test_affine_tables_survive_writing_and_wrong_ones_are_refused():
    tables = calibrated(latents(2, 3, 4), 5)
    assert read_affine(write_affine(tables)) == tables
    for bits, low, step in ((9, 0.0, 1.0), (8, 0.0, 0.0), (8, np.nan, 1.0), (8, 1e300, 1.0), (8, 0.0, 1e-300)):
        with pytest.raises(ArtifactError):
            read_affine(write_affine(AffineTables(bits, (low,), (step,))))
    with pytest.raises(ArtifactError):
        read_affine(b"\x00")
    for latent in (np.zeros((0, 3, 2)), np.full((1, 1, 1), np.inf)):
        with pytest.raises(TierwiseError):
            calibrated(latent, 8)


def test_values_beyond_all_ranges_become_their_ends():
    codec = AffineCodec(AffineTables(8, (0.0,), (1e-30,)))
    found = decode(codec, encode(codec, np.array([[[3e38, -3e38, np.inf]]], np.float32)))
    np.testing.assert_allclose(found, [[[255e-30, 0, 255e-30]]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(32, 40, 3), (32, 40, 1)])
def test_pictures_survive_and_headers_are_most_of_a_flat_one(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decode_picture(encode_picture(picture, "png")).reshape(shape), picture)
    for kind in ("jpeg", "webp"):
        content = encode_picture(picture, kind, 90)
        assert decode_picture(content).shape[:2] == (32, 40)
        assert 0 < header_bytes(kind, 90, *shape) < len(content)
    with pytest.raises(InputError, match="uint8"):
        encode_picture(picture.astype(np.float32), "png")


@pytest.mark.parametrize(
    ("shape", "kind", "quality", "said"),
    [
        ((0, 4, 3), "webp", 90, r"sides of 1 to 16383 pixels, but got \[0, 4\]"),
        ((4, 0), "png", 90, "sides of 1 to"),
        ((1, 16_384), "webp", 90, "sides of 1 to 16383"),
        ((65_536, 1), "jpeg", 90, "sides of 1 to 65535"),
        ((4, 4), "jpeg", 101, "quality of a picture must be 0 to 100"),
        ((4, 4), "webp", -1, "quality of a picture must be 0 to 100"),
    ],
)
def test_pictures_that_a_format_cannot_hold_are_refused(shape, kind, quality, said):
    with pytest.raises(InputError, match=said):
        encode_picture(np.zeros(shape, np.uint8), kind, quality)


@pytest.mark.parametrize("size", [1e-32, 1e-38, 0.0])
def test_a_channel_that_hardly_changes_can_be_stored(size):
    seen = latents(20, 2) * np.array([[size, 1.0]], np.float32)
    tables = calibrated(seen, 8)
    assert read_affine(write_affine(tables)) == tables
    assert np.abs(decode(AffineCodec(tables), encode(AffineCodec(tables), seen)) - seen).max() < 0.1


def test_values_that_tables_cannot_hold_are_not_learnt_from():
    with pytest.raises(InputError, match="within 1e30"):
        calibrated(np.full((2, 2), 1e31), 8)


@pytest.mark.parametrize(
    ("shape", "channels", "said"),
    [
        ((2, 3), -1, "channels sent must be 0 to 3, but got -1"),
        ((2, 3), 9, "channels sent must be 0 to 3, but got 9"),
        ((3,), None, "of 2 to 8 axes, but got 1"),
        ((1,) * 9, None, "of 2 to 8 axes, but got 9"),
    ],
)
def test_what_no_frame_can_hold_is_refused_before_it_is_sent(shape, channels, said):
    with pytest.raises(InputError, match=said):
        encode(RawCodec(), np.zeros(shape, np.float32), channels)
