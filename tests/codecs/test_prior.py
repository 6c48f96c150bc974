"""Latents through a factorised prior: both coders give the same bytes, and rates are those of the tables."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwise._errors import ArtifactError, InputError
from tierwise.codecs import (
    ChannelTable,
    PriorCodec,
    PriorTables,
    decode,
    encode,
    read_frame,
    read_prior,
    whole_frequencies,
    write_prior,
)

CODERS = ("python", "constriction")


def laplace(scale, reach, channels=3, median=0.25):
    values = np.arange(-reach, reach + 1)
    shares = np.append(np.exp(-np.abs(values) / scale), 1e-4)
    table = [ChannelTable(median * i, -reach, whole_frequencies(shares)) for i in range(channels)]
    return PriorTables(tuple(table)), values, shares[:-1] / shares[:-1].sum()


def sampled(tables, values, shares, shape, seed=0):
    drawn = np.random.default_rng(seed).choice(values, size=shape, p=shares).astype(np.float32)
    medians = np.array([table.median for table in tables.channels[: shape[1]]], np.float32)
    return drawn + medians.reshape(-1, *[1] * (len(shape) - 2))


# Tables whose groups hold four symbols, two, and one.
@pytest.mark.parametrize(("scale", "reach"), [(0.4, 2), (2.0, 15), (30.0, 300)])
@pytest.mark.parametrize("shape", [(1, 3, 7, 5), (2, 3, 1), (1, 2, 0), (0, 3, 4), (1, 3)])
def test_both_coders_give_the_same_bytes_and_read_each_other(scale, reach, shape):
    tables, values, shares = laplace(scale, reach)
    latent = sampled(tables, values, shares, shape)
    latent.reshape(-1)[::6] += 1000  # stands in no table
    codecs = [PriorCodec(tables, coder) for coder in CODERS]
    frames = [encode(codec, latent) for codec in codecs]
    assert frames[0] == frames[1]
    for codec in codecs:
        found = decode(codec, frames[0])
        np.testing.assert_array_equal(found[:, : shape[1]], latent)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_tables_and_values_come_back(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    channels = data.draw(st.integers(1, 4))
    tables = PriorTables(
        tuple(
            ChannelTable(
                float(np.float32(rng.normal())),
                int(rng.integers(-40, 5)),
                whole_frequencies(rng.dirichlet(np.full(rng.integers(2, 70), data.draw(st.sampled_from([0.01, 1.0]))))),
            )
            for _ in range(channels)
        )
    )
    latent = rng.normal(0, 20, (2, channels, data.draw(st.integers(0, 50)))).astype(np.float32)
    python, library = (PriorCodec(tables, coder) for coder in CODERS)
    frame = encode(python, latent)
    assert frame == encode(library, latent)
    found = decode(library, frame)
    np.testing.assert_array_equal(found, decode(python, frame))
    assert np.abs(found - latent).max(initial=0) <= 0.5 + 1e-5


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=6),
    lowest=st.sampled_from([-40, -3, 0, 2**21 - 1, -(2**21), 2**23]),
    positions=st.integers(0, 300),
    kind=st.sampled_from([np.float32, np.float64, np.int32]),
    data=st.data(),
)
def test_values_that_stand_in_their_tables_come_back(seed, lengths, lowest, positions, kind, data):
    """Neighbours whose tables differ in size are grouped differently; a prefix may end inside such a run."""
    rng = np.random.default_rng(seed)
    quarter = 0.25 if lowest < 2**23 else 0.0  # there floats are one apart
    tables = PriorTables(
        tuple(
            ChannelTable(quarter * int(rng.integers(-2, 3)), lowest, whole_frequencies(rng.dirichlet(np.ones(length))))
            for length in lengths
        )
    )
    channels = data.draw(st.integers(0, len(lengths)))
    latent = np.empty((1, len(lengths), positions), kind)
    for i, length in enumerate(lengths):
        latent[0, i] = lowest + rng.integers(0, length - 1, positions)
    python, library = (PriorCodec(tables, coder) for coder in CODERS)
    frame = encode(python, latent, channels)
    assert frame == encode(library, latent, channels)
    found = decode(library, frame)
    np.testing.assert_array_equal(found, decode(python, frame))
    assert np.abs(found[:, :channels] - latent[:, :channels]).max(initial=0) <= 0.5


def test_halves_are_rounded_to_even_with_and_without_escapes():
    tables, *_ = laplace(1.0, 7, channels=1)
    for coder in CODERS:
        codec = PriorCodec(tables, coder)
        halves = np.array([[[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]]], np.float32)
        assert decode(codec, encode(codec, halves)).ravel().tolist() == [-2, -2, 0, 0, 2, 2, 4]
        beside = np.append(halves, np.float32([[[8388607.0]]]), axis=2)
        assert decode(codec, encode(codec, beside)).ravel().tolist() == [-2, -2, 0, 0, 2, 2, 4, 8388607]


def test_values_far_beyond_are_not_taken_for_near_ones():
    far = PriorTables((ChannelTable(0.0, 2**23, whole_frequencies([1, 1, 1])),))
    codec = PriorCodec(far)
    latent = np.array([[[2.0**23, 2.0**23 + 1, 3 * 2.0**22, -(2.0**23), 2.0**24 - 1]]], np.float32)
    np.testing.assert_array_equal(decode(codec, encode(codec, latent)), latent)


def test_a_latent_is_left_as_it_was():
    tables, values, shares = laplace(1.0, 7)
    latent = sampled(tables, values, shares, (2, 3, 50))
    before = latent.copy()
    encode(PriorCodec(tables), latent)
    np.testing.assert_array_equal(latent, before)


@pytest.mark.parametrize(("scale", "reach"), [(0.15, 2), (1.0, 7), (4.0, 29)])
def test_small_payloads_cost_two_bytes_at_most_beyond_their_tables(scale, reach):
    tables, values, shares = laplace(scale, reach, channels=24)
    codec = PriorCodec(tables)
    for side in (1, 2, 5, 9):
        latent = sampled(tables, values, shares, (1, 24, side, side), seed=side)
        frame = encode(codec, latent)
        payload, ideal_bytes = len(read_frame(frame).payload), tables.bits(latent) / 8
        assert ideal_bytes - 1 < payload < ideal_bytes + 2
        assert len(frame) == payload + 13, "six bytes, three axes of one byte, four of checksum"


@pytest.mark.parametrize(("scale", "reach"), [(0.5, 4), (1.0, 7), (4.0, 29)])
def test_the_rate_is_within_one_percent_of_the_tables_entropy(scale, reach):
    tables, values, shares = laplace(scale, reach, channels=24)
    latent = sampled(tables, values, shares, (1, 24, 30, 30))
    payload = read_frame(encode(PriorCodec(tables), latent)).payload
    ideal_bytes = tables.bits(latent) / 8
    assert ideal_bytes > 1000
    assert ideal_bytes - 1 < len(payload) < 1.01 * ideal_bytes


def test_an_end_costs_a_byte_at_most():
    tables, values, shares = laplace(1.0, 7, channels=1)
    codec = PriorCodec(tables, "python")
    over = [
        len(codec.pack(latent)[0]) - tables.bits(latent) / 8
        for latent in (
            sampled(tables, values, shares, (1, 1, count), seed) for seed in range(20) for count in (1, 9, 40)
        )
    ]
    assert max(over) < 1.1


def test_a_prefix_of_the_channels_decodes_to_medians_behind_it():
    tables, values, shares = laplace(1.0, 7, channels=4, median=0.5)
    latent = sampled(tables, values, shares, (1, 4, 6))
    codec = PriorCodec(tables)
    sizes = []
    for channels in range(5):
        frame = encode(codec, latent, channels)
        sizes.append(len(frame))
        found = decode(codec, frame)
        np.testing.assert_array_equal(found[:, :channels], latent[:, :channels])
        assert [found[0, i].tolist() for i in range(channels, 4)] == [[0.5 * i] * 6 for i in range(channels, 4)]
    assert all(low < high for low, high in itertools.pairwise(sizes))


def test_the_bytes_of_a_stream_never_change():
    tables = PriorTables((ChannelTable(0.0, -1, whole_frequencies([1, 5, 1, 0.1])), ChannelTable(0.5, 0, (65535, 1))))
    latent = np.array([[[0, 1, -1, 0, 9, 0, 0], [0.5, 0.5, 0.5, 0.5, 3.5, 0.5, 0.5]]], np.float32)
    assert encode(PriorCodec(tables, "python"), latent).hex() == "541333e3b7eb020704bf6997601206b520faa3"


@pytest.mark.parametrize("coder", CODERS)
def test_the_bytes_of_grouped_streams_never_change(coder):
    """Four, two and one symbol at once, a rest in each row, one value in no table."""
    sizes = (3, 9, 100)
    shares = [[1 / (1 + abs(i - size // 3)) for i in range(size)] for size in sizes]
    tables = PriorTables(
        tuple(ChannelTable(0.5 * i, -(one // 3), whole_frequencies(shares[i])) for i, one in enumerate(sizes))
    )
    latent = np.array([[[j * (i + 1) % 5 - 1.0 + 0.5 * i for j in range(11)] for i in range(3)]], np.float32)
    latent[0, 0] = np.clip(latent[0, 0], -1, 0)
    latent[0, 2, 4] = 1234
    assert encode(PriorCodec(tables, coder), latent).hex() == "5413335766b1030b0c1e79102e26e2a63b544ebbe6a21366dc8b2a"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e9])
def test_values_that_cannot_be_coded_are_refused(wrong):
    tables, *_ = laplace(1.0, 7)
    with pytest.raises(InputError, match="finite and within"):
        encode(PriorCodec(tables), np.full((1, 3, 2), wrong, np.float32))


def test_more_channels_than_tables_are_refused():
    tables, *_ = laplace(1.0, 7)
    with pytest.raises(InputError, match="at most 3 channels"):
        encode(PriorCodec(tables), np.zeros((1, 4, 2), np.float32))


def test_tables_survive_writing_and_wrong_ones_are_refused():
    tables, *_ = laplace(1.0, 7)
    content = write_prior(tables)
    assert read_prior(content) == tables
    with pytest.raises(ArtifactError):
        read_prior(content[:-1])
    broken = PriorTables((ChannelTable(0.0, 0, (1, 2)),))
    with pytest.raises(ArtifactError, match="channel 0"):
        read_prior(write_prior(broken))
    for shares in ([], [-1.0, 2.0], [0.0], [np.nan, 1.0]):
        with pytest.raises(InputError):
            whole_frequencies(shares)


def test_a_stream_that_no_coder_wrote_is_refused_or_read():
    tables, _, _ = laplace(1.0, 7)
    codec, rng = PriorCodec(tables, "constriction"), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        payload = rng.choice(np.array([0, 255], np.uint8), 40).tobytes()
        try:
            assert codec.unpack(payload, 0, (1, 3, 60)).shape == (1, 3, 60)
        except InputError as error:
            refused += "of the tables that it is read with" in str(error)
    assert refused
    with pytest.raises(InputError, match="at most"):  # no channel is sent, and all of them are wanted
        codec.unpack(b"", 0, (1 << 26, 0))


def test_a_median_that_no_latent_can_have_is_refused():
    far = PriorTables((ChannelTable(1e300, 0, whole_frequencies([1, 1])),))
    with pytest.raises(ArtifactError, match="channel 0"):
        read_prior(write_prior(far))
