"""A coded latent between two nodes: frames on the wire, the same answers everywhere, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from onnx import helper

from tierwise._errors import ArtifactError, InputError, RemoteError, TierwiseError, UnavailableError
from tierwise.artifact import Artifact, Boundary, Rate, Segment, TensorInput, open_artifact, read_files, record_rates
from tierwise.codecs import (
    AffineCodec,
    AffineTables,
    ChannelTable,
    PriorTables,
    calibrated,
    encode,
    read_frame,
    write_affine,
    write_prior,
)
from tierwise.runtime import Executor, Pipeline, Placed, Share, deploy
from tierwise.runtime._seal import seal_at
from tierwise.wire import InferenceClient, infer_request, status_of

from .conftest import BIAS, H, X, Y, chain_parts, fp32, onnx_model

Inputs = dict[str, Any]
RATES = (
    Rate(channels=2, item_bytes=15.0, metric="accuracy", value=0.5),
    Rate(channels=6, item_bytes=19.0, metric="accuracy", value=0.75),
)
TABLES = AffineTables(8, (0.0,) * 6, (0.02,) * 6)


def coded(directory: Path, make: Callable[..., Artifact], tables: bytes, codec: str, scale: float = 1.0) -> Artifact:
    """`chain`, the tensor ``h`` behind its first segment coded."""
    boundary = Boundary(tensor="h", codec=codec, tables="t.bin", rates=RATES, encoder_bits=768)  # type: ignore[arg-type]
    (content, first), *rest = chain_parts(scale)
    parts = [(content, msgspec.structs.replace(first, boundary=boundary)), *rest]
    return make(directory, parts, TensorInput(tensors=(X, BIAS)), (Y,), **{"t.bin": tables})


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Artifact:
    from .conftest import make_artifact

    return coded(tmp_path_factory.mktemp("coded") / "a", make_artifact, write_affine(TABLES), "affine")


@pytest.fixture(scope="module")
def nodes(start_node: Callable[..., Any]) -> list[Any]:
    return [start_node(tier) for tier in ("mobile", "cloud")]


def split(nodes: list[Any], name: str, artifact: Artifact, channels: int | None = None) -> Pipeline:
    head = Share(segments=(0, 1), forward=nodes[1].tcp, channels=channels)
    deploy(artifact, name, [Placed(control=n.unix, share=s) for n, s in zip(nodes, (head, TAIL), strict=True)])
    return Pipeline(nodes[0].unix, name, artifact.manifest.input)


TAIL = Share(segments=(1, 3))


def test_one_process_and_two_nodes_answer_alike(nodes: list[Any], affine: Artifact, inputs: Inputs) -> None:
    expected = Executor(affine).run(inputs)["y"]
    with split(nodes, "coded", affine) as pipeline:
        reply = pipeline.infer(inputs)
    np.testing.assert_array_equal(reply.outputs["y"], expected)
    assert reply.path == ("mobile", "cloud")


def test_the_codec_shows_in_the_answer(
    affine: Artifact, chain: Artifact, inputs: Inputs, directly: Callable[..., Any]
) -> None:
    got, exact = Executor(affine).run(inputs)["y"], directly(chain, inputs)
    assert 0 < np.abs(got - exact).max() < 0.2


def test_what_crosses_is_a_frame(affine: Artifact) -> None:
    seal = seal_at(affine, 1)
    assert seal is not None
    latent = np.abs(np.random.default_rng(0).normal(size=(1, 6))).astype(np.float32)
    sent = seal.close({"h": latent})["h"]
    frame = read_frame(sent.tobytes())
    assert (sent.dtype, frame.shape, len(frame.payload)) == (np.uint8, (1, 6), 6)
    few = read_frame(seal.close({"h": latent}, 2)["h"].tobytes())
    assert (few.shape, len(few.payload)) == ((1, 2), 2)
    arrived = seal.open(seal.close({"h": latent}, 2))["h"]
    assert arrived.shape == latent.shape
    assert not arrived[:, 2:].any(), "what is not sent is the low end"


def test_fewer_channels_take_fewer_bytes(nodes: list[Any], affine: Artifact, inputs: Inputs) -> None:
    with split(nodes, "all", affine) as pipeline:
        whole = pipeline.infer(inputs)
    with split(nodes, "all", affine, channels=2) as pipeline:
        part = pipeline.infer(inputs)
    assert whole.bytes_up - part.bytes_up == 2 * (6 - 2), "two items, four channels of one byte each"
    assert np.abs(whole.outputs["y"] - part.outputs["y"]).max() > 0


def test_a_tail_of_another_artifact_refuses(
    nodes: list[Any], affine: Artifact, tmp_path: Path, make: Callable[..., Artifact], inputs: Inputs
) -> None:
    other = coded(tmp_path / "b", make, write_affine(TABLES), "affine", scale=-2.0)
    for node, artifact, share in (
        (nodes[1], other, TAIL),
        (nodes[0], affine, Share(segments=(0, 1), forward=nodes[1].tcp)),
    ):
        with InferenceClient(node.unix) as client:
            client.load("mixed", msgspec.json.encode(share), read_files(artifact), 30.0)
    with (
        Pipeline(nodes[0].unix, "mixed", affine.manifest.input) as pipeline,
        pytest.raises(RemoteError, match="a frame must come from the encoder and the tables") as refused,
    ):
        pipeline.infer(inputs)
    assert status_of(refused.value) is grpc.StatusCode.FAILED_PRECONDITION, "the request is not to blame"


def with_tail(directory: Path, make: Callable[..., Artifact], seed: int) -> Artifact:
    """The encoder and tables of `coded`, and a tail for another task: two groups."""
    groups = fp32("groups", 2)
    weights = np.random.default_rng(seed).normal(size=(6, 2))
    content = onnx_model([helper.make_node("MatMul", ["h", "w"], ["groups"])], [H], [groups], w=weights)
    (head, first), *_ = chain_parts()
    boundary = Boundary(tensor="h", codec="affine", tables="other-name.bin", rates=RATES, encoder_bits=768)
    parts = [
        (head, msgspec.structs.replace(first, boundary=boundary, file="encoder.onnx")),
        (content, Segment(file="groups.onnx", inputs=(H,), outputs=(groups,), macs=12)),
    ]
    tables = {"other-name.bin": write_affine(TABLES)}
    return make(directory, parts, TensorInput(tensors=(X,)), (groups,), **tables)


def test_two_tails_read_one_frame_and_a_third_of_another_encoder_refuses(
    nodes: list[Any], affine: Artifact, tmp_path: Path, make: Callable[..., Artifact], inputs: Inputs
) -> None:
    grouped = with_tail(tmp_path / "groups", make, 3)
    other = coded(tmp_path / "other", make, write_affine(TABLES), "affine", scale=0.5)
    for name, artifact, share in (("classes", affine, TAIL), ("groups", grouped, Share(segments=(1, 2)))):
        with InferenceClient(nodes[1].unix) as client:
            client.load(name, msgspec.json.encode(share), read_files(artifact), 30.0)
    with InferenceClient(nodes[1].unix) as client:
        client.load("other", msgspec.json.encode(TAIL), read_files(other), 30.0)
    seal = seal_at(affine, 1)
    assert seal is not None
    latent = Executor(affine, (0, 1)).run(inputs)["h"]
    frame = seal.close({"h": latent})["h"]
    with InferenceClient(nodes[1].unix) as client:
        classes = client.exchange(infer_request("classes", {"h": frame, "bias": inputs["bias"]})).response.tensors()
        groups = client.exchange(infer_request("groups", {"h": frame})).response.tensors()
        with pytest.raises(RemoteError, match="a frame must come from the encoder and the tables"):
            client.exchange(infer_request("other", {"h": frame, "bias": inputs["bias"]}))
    np.testing.assert_array_equal(classes["y"], Executor(affine).run(inputs)["y"])
    np.testing.assert_array_equal(groups["groups"], Executor(grouped).run({"x": inputs["x"]})["groups"])
    # The device sends the same bytes to either.
    head = Share(segments=(0, 1), forward=nodes[1].tcp, forward_model="groups")
    with InferenceClient(nodes[0].unix) as client:
        client.load("to-groups", msgspec.json.encode(head), read_files(affine), 30.0)
    with Pipeline(nodes[0].unix, "to-groups", affine.manifest.input) as pipeline:
        answered = pipeline.infer(inputs)
    assert answered.path == ("mobile", "cloud")
    np.testing.assert_array_equal(answered.outputs["groups"], groups["groups"])


def test_one_process_answers_at_a_lesser_rate_as_two_nodes(nodes: list[Any], affine: Artifact, inputs: Inputs) -> None:
    with split(nodes, "fewer", affine, channels=2) as pipeline:
        reply = pipeline.infer(inputs)
    lesser = Executor(affine, channels=2).run(inputs)["y"]
    np.testing.assert_array_equal(reply.outputs["y"], lesser)
    assert not np.array_equal(lesser, Executor(affine).run(inputs)["y"])
    with pytest.raises(InputError, match=r"channels sent must be one of \[2, 6\]"):
        Executor(affine, channels=3)
    with pytest.raises(InputError, match="only a coded latent between two segments"):
        Executor(affine, segments=(0, 1), channels=2)


def test_each_lesser_rate_has_its_own_figure_on_the_test_split(tmp_path: Path, make: Callable[..., Artifact]) -> None:
    artifact = coded(tmp_path / "a", make, write_affine(TABLES), "affine")
    known = open_artifact(record_rates(artifact, {2: 0.625}).directory).manifest.segments[0].boundary
    assert known is not None
    assert [rate.test for rate in known.rates] == [0.625, None]
    assert [rate.value for rate in known.rates] == [0.5, 0.75]


def test_a_node_refuses_rates_that_there_are_not(nodes: list[Any], affine: Artifact, chain: Artifact) -> None:
    with pytest.raises(RemoteError, match=r"channels sent must be one of \[2, 6\]"):
        split(nodes, "odd", affine, channels=3)
    with pytest.raises(RemoteError, match="sends no coded latent"):
        split(nodes, "plain", chain, channels=2)


def test_tables_of_another_latent_are_refused_at_load(tmp_path: Path, make: Callable[..., Artifact]) -> None:
    narrow = write_affine(calibrated(np.zeros((2, 3), np.float32), 8))
    with pytest.raises(ArtifactError, match="tables of a codec must be those of the latent"):
        Executor(coded(tmp_path / "a", make, narrow, "affine"))
    with pytest.raises(ArtifactError, match="must be as they were written"):
        Executor(coded(tmp_path / "b", make, b"nothing", "prior"))


def test_missing_tables_are_refused_at_load(tmp_path: Path, affine: Artifact) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(affine.directory, copy)
    manifest = copy / "manifest.json"
    read = msgspec.json.decode(manifest.read_bytes())
    read["files"] = [entry for entry in read["files"] if entry["name"] != "t.bin"]
    manifest.write_bytes(msgspec.json.encode(read))
    (copy / "t.bin").unlink()
    with pytest.raises(ArtifactError, match="tables of a codec must be among the artifact's files"):
        Executor(open_artifact(copy))


def test_what_is_no_frame_is_refused(affine: Artifact) -> None:
    seal = seal_at(affine, 1)
    assert seal is not None
    for tensors in ({}, {"h": np.zeros((1, 6), np.float32)}):
        with pytest.raises(InputError, match="must come as the bytes of a frame"):
            seal.open(tensors)
    tag = read_frame(seal.close({"h": np.zeros((1, 6), np.float32)})["h"].tobytes()).tag
    for shape in ((1, 6, 2), (1, 7)):
        wide = AffineCodec(AffineTables(8, (0.0,) * shape[1], (0.02,) * shape[1]))
        with pytest.raises(InputError, match=r"a frame must hold items of shape \[6\], or their first channels"):
            seal.open({"h": np.frombuffer(encode(wide, np.zeros(shape, np.float32), tag=tag), np.uint8)})
    with pytest.raises(InputError, match="the bytes must be a frame"):
        seal.open({"h": np.zeros(40, np.uint8)})


def test_a_prior_travels_with_the_artifact(
    nodes: list[Any], tmp_path: Path, make: Callable[..., Artifact], inputs: Inputs
) -> None:
    table = ChannelTable(0.0, 0, (1 << 15, 1 << 14, 1 << 14))
    artifact = coded(tmp_path / "a", make, write_prior(PriorTables((table,) * 6)), "prior")
    expected = Executor(artifact).run(inputs)["y"]
    with split(nodes, "prior", artifact) as pipeline:
        np.testing.assert_array_equal(pipeline.infer(inputs).outputs["y"], expected)


@pytest.mark.parametrize("codec", ["affine", "prior"])
def test_one_artifact_serves_two_rates_at_once(
    nodes: list[Any], tmp_path: Path, make: Callable[..., Artifact], inputs: Inputs, codec: str
) -> None:
    table = ChannelTable(0.0, 0, (1 << 12,) * 16)
    tables = write_affine(TABLES) if codec == "affine" else write_prior(PriorTables((table,) * 6))
    artifact = coded(tmp_path / "a", make, tables, codec)
    seal = seal_at(artifact, 1)
    assert seal is not None
    latent = {"h": Executor(artifact, (0, 1)).run(inputs)["h"]}
    shares = {f"{codec}-{channels}": channels for channels in (2, 6)}
    pipelines = {name: split(nodes, name, artifact, channels) for name, channels in shares.items()}
    sizes = {}
    for name in (*shares, *shares):  # in turn, both being loaded
        reply = pipelines[name].infer(inputs)
        opened = seal.open(seal.close(latent, shares[name]))
        expected = Executor(artifact, (1, 3)).run({**inputs, **opened})["y"]
        np.testing.assert_array_equal(reply.outputs["y"], expected)
        sizes[name] = reply.bytes_up
    assert sizes[f"{codec}-2"] < sizes[f"{codec}-6"]
    for pipeline in pipelines.values():
        pipeline.close()


def test_no_channels_are_no_rate(nodes: list[Any], affine: Artifact) -> None:
    with pytest.raises(TierwiseError, match="channels"):
        split(nodes, "none", affine, channels=0)


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_a_prefix_that_is_no_rate_is_read_as_the_prefix_it_is(affine: Artifact, channels: int) -> None:
    """What may be sent is a matter of accuracy that was measured; what a frame holds is plain from the frame."""
    seal = seal_at(affine, 1)
    assert seal is not None
    latent = np.full((2, 6), 0.5, np.float32)
    opened = seal.open(seal.close({"h": latent}, channels))["h"]
    np.testing.assert_allclose(opened[:, :channels], latent[:, :channels], atol=0.01)
    assert not opened[:, channels:].any()


def test_frames_of_others_are_refused(affine: Artifact, tmp_path: Path, make: Callable[..., Artifact]) -> None:
    """Neither the frame nor the tail is wrong by itself, so nobody who sent it is told that his request was."""
    seal = seal_at(affine, 1)
    assert seal is not None
    own_tables = AffineCodec(TABLES)
    with pytest.raises(UnavailableError, match="must come from the encoder and the tables"):
        seal.open({"h": np.frombuffer(encode(own_tables, np.zeros((1, 6), np.float32)), np.uint8)})
    other = seal_at(coded(tmp_path / "b", make, write_affine(TABLES), "affine", scale=-2.0), 1)
    assert other is not None
    for channels in (None, 2):
        with pytest.raises(UnavailableError, match="Deploy both parts from one artifact"):
            seal.open(other.close({"h": np.zeros((1, 6), np.float32)}, channels))


def test_a_few_bytes_that_stand_for_a_great_latent_are_not_decoded(
    start_node: Callable[..., Any], affine: Artifact, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[limits.inputs]\nlatent_elements = 600\n")
    node, seal = start_node("tight", "--config", str(file)), seal_at(affine, 1)
    assert seal is not None
    with InferenceClient(node.unix) as client:
        client.load("m", msgspec.json.encode(TAIL), read_files(affine), 30.0)
        for items in (100, 101):
            sent = seal.close({"h": np.zeros((items, 6), np.float32)}, 0)
            assert len(sent["h"]) < 16
            asked = infer_request("m", {**sent, "bias": np.zeros((items, 3), np.float32)})
            if items == 100:
                assert client.exchange(asked).response.tensors()["y"].shape == (100, 3)
                continue
            with pytest.raises(RemoteError, match=r"at most 100 items.*latent_elements") as refused:
                client.exchange(asked)
            assert status_of(refused.value) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_great_latent_is_decoded_in_its_turn(nodes: list[Any], affine: Artifact) -> None:
    seal = seal_at(affine, 1)
    assert seal is not None
    many = 1 + (1 << 20) // 6
    latent = np.random.default_rng(0).uniform(0, 1, (many, 6)).astype(np.float32)
    bias = np.zeros((many, 3), np.float32)
    with InferenceClient(nodes[1].unix) as client:
        client.load("great", msgspec.json.encode(TAIL), read_files(affine), 30.0)
        answered = client.exchange(infer_request("great", {**seal.close({"h": latent}), "bias": bias}))
    expected = Executor(affine, (1, 3)).run({**seal.through({"h": latent}), "bias": bias})["y"]
    np.testing.assert_array_equal(answered.response.tensors()["y"], expected)


def test_in_one_process_a_batch_may_have_any_size(affine: Artifact) -> None:
    """What bounds frames of strangers says nothing about one's own test split."""
    many = {"x": np.ones((5000, 4), np.float32), "bias": np.zeros((5000, 3), np.float32)}
    one = {name: array[:1] for name, array in many.items()}
    answers, executor = Executor(affine).run(many)["y"], Executor(affine)
    np.testing.assert_allclose(answers, np.repeat(executor.run(one)["y"], 5000, axis=0), rtol=1e-6)


def test_more_than_a_frame_holds_passes_in_one_process(affine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = seal_at(affine, 1)
    assert seal is not None
    latent = np.random.default_rng(0).uniform(0, 1, (7, 6)).astype(np.float32)
    together = seal.through({"h": latent}, 2)["h"]
    monkeypatch.setattr("tierwise.runtime._seal.MOST_ELEMENTS", 18)
    np.testing.assert_array_equal(seal.through({"h": latent}, 2)["h"], together)


def test_rates_that_the_codec_cannot_read_are_refused_at_load(tmp_path: Path, make: Callable[..., Artifact]) -> None:
    with pytest.raises(ArtifactError, match="all of them where the codec is raw"):
        Executor(coded(tmp_path / "a", make, b"", "raw"))


def test_the_codec_of_tables_is_the_one_of_the_room(affine: Artifact) -> None:
    latent = np.abs(np.random.default_rng(0).normal(size=(3, 6))).astype(np.float32)
    seal = seal_at(affine, 1)
    assert seal is not None
    payload = read_frame(seal.close({"h": latent})["h"].tobytes()).payload
    assert payload == AffineCodec(TABLES).pack(latent)[0]
    assert H.shape == (-1, 6)
