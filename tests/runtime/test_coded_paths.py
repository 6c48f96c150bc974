"""An adaptive pipeline over one coded latent at several rates, pictures as files, and the device; on real nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from tierwise._errors import InputError, RemoteError
from tierwise.artifact import Artifact, Boundary, ImageInput, Rate, Segment
from tierwise.codecs import AffineCodec, AffineTables, decode, encode, encode_picture, write_affine
from tierwise.measure import Reply
from tierwise.runtime import (
    AdaptivePipeline,
    Executor,
    Paths,
    PathSpec,
    PictureFile,
    Pipeline,
    Placed,
    Share,
    deploy,
)
from tierwise.testbed import ProxyMeans, Spawner
from tierwise.topology import Link, Tier, Topology

from .conftest import fp32, make_artifact, onnx_model
from .test_adaptive import until

SIDE, CHANNELS = 16, (2, 16)
GIVEN, LATENT, Y = fp32("p", 1, SIDE, SIDE), fp32("latent", 16, SIDE, SIDE), fp32("y", 5)
TABLES = AffineTables(8, (-4.0,) * 16, (8 / 255,) * 16)
# With what stands around them, all 16 channels take half a second at 80 kbit/s, and two of them 0.17 s.
SLOW_BPS, FAST_BPS, RTT_S = 0.08e6, 20e6, 0.01

Pixels = npt.NDArray[np.uint8]


def narrow(directory: Path, encoding: str) -> Artifact:
    """Pixels -> 16 pictures of features -> five figures; the features cross as 8-bit numbers, 2 or all of them."""
    rng = np.random.default_rng(3)
    node = helper.make_node
    head = onnx_model(
        [node("Conv", ["p", "w"], ["latent"], pads=[1, 1, 1, 1])], [GIVEN], [LATENT], w=rng.normal(size=(16, 1, 3, 3))
    )
    nodes = [
        node("GlobalAveragePool", ["latent"], ["m"]),
        node("Flatten", ["m"], ["f"]),
        node("MatMul", ["f", "v"], ["y"]),
    ]
    tail = onnx_model(nodes, [LATENT], [Y], v=rng.normal(size=(16, 5)))
    rates = tuple(Rate(channels=n, item_bytes=256.0 * n, metric="accuracy", value=n / 20) for n in CHANNELS)
    boundary = Boundary(tensor="latent", codec="affine", tables="t.bin", rates=rates, encoder_bits=4608)
    parts = [
        (head, Segment(file="head.onnx", inputs=(GIVEN,), outputs=(LATENT,), macs=1, boundary=boundary)),
        (tail, Segment(file="tail.onnx", inputs=(LATENT,), outputs=(Y,), macs=1)),
    ]
    known = ImageInput(
        encoding=encoding,  # type: ignore[arg-type]
        height=SIDE,
        width=SIDE,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        tensor="p",
    )
    return make_artifact(directory, parts, known, (Y,), **{"t.bin": write_affine(TABLES)})


@dataclass
class Coded:
    """A device and a node above it; the model in pixels on both, and in files above."""

    device: str
    above: Any
    pixels: Artifact
    files: Artifact

    def expected(self, picture: Pixels, channels: int) -> npt.NDArray[np.float32]:
        """The split's answer at a rate, in this process."""
        tensors = {"p": ((picture / 255.0 - 0.5) / 0.5).astype(np.float32).transpose(2, 0, 1)[None]}
        latent = Executor(self.pixels, (0, 1), threads=1).run(tensors)["latent"]
        arrived = decode(AffineCodec(TABLES), encode(AffineCodec(TABLES), latent, channels))
        return Executor(self.pixels, (1, 2), threads=1).run({"latent": np.ascontiguousarray(arrived)})["y"]

    def paths(self, over: str, **changes: Any) -> Paths:
        """Two rates of one deployed model, and the device."""
        split = [
            PathSpec(
                name=f"split-{n}",
                accuracy_frac=n / 20,
                node=self.device,
                model="split",
                link="up",
                probe=over,
                channels=n,
                request_bytes=SIDE * SIDE * n,
            )
            for n in CHANNELS
        ]
        local = PathSpec(name="local", accuracy_frac=0.05, node=self.device, model="local")
        settings = {"dwell_s": 0.05, "deadline_s": 0.4, "input": self.pixels.manifest.input}
        return Paths(paths=(*split, local), **(settings | changes))


@pytest.fixture(scope="module")
def coded(start_node: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Coded:
    folder = tmp_path_factory.mktemp("coded")
    made = narrow(folder / "pixels", "uint8"), narrow(folder / "files", "png")
    return Coded(start_node("device").unix, start_node("above"), *made)


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 1), np.uint8)


@contextmanager
def over_link(coded: Coded, folder: Path, rate_bps: float) -> Iterator[str]:
    """The models deployed over a link of that rate; the address of the node above through it."""
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=10**9) for name in ("device", "above"))
    link = Link(lower="device", upper="above", up_bps=rate_bps, down_bps=rate_bps, rtt_s=RTT_S)
    with ExitStack() as stack:
        spawner = stack.enter_context(Spawner(folder))
        network = stack.enter_context(ProxyMeans().network(Topology(name="t", tiers=tiers, links=(link,)), spawner))
        reached = network.address("device", "above", int(coded.above.tcp.rpartition(":")[2]))
        deploy(coded.pixels, "local", [Placed(control=coded.device, share=Share())])
        cut = [
            Placed(control=coded.device, share=Share(segments=(0, 1), forward=reached)),
            Placed(control=coded.above.unix, share=Share(segments=(1, 2))),
        ]
        deploy(coded.pixels, "split", cut)
        deploy(coded.files, "offload", [Placed(control=coded.above.unix, share=Share())])
        yield reached


@pytest.fixture(scope="module")
def fast(coded: Coded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with over_link(coded, tmp_path_factory.mktemp("fast"), FAST_BPS) as reached:
        yield reached


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_request_chooses_its_rate_of_one_deployed_model(
    coded: Coded, fast: str, picture: Pixels, channels: int
) -> None:
    with Pipeline(coded.device, "split", coded.pixels.manifest.input, channels=channels) as pipeline:
        reply = pipeline.infer([picture])
    np.testing.assert_allclose(reply.outputs["y"], coded.expected(picture, channels), rtol=1e-5, atol=1e-6)
    with Pipeline(coded.device, "split", coded.pixels.manifest.input) as pipeline:
        assert pipeline.infer([picture]).bytes_up - reply.bytes_up == SIDE * SIDE * (CHANNELS[-1] - channels)


def test_rates_that_there_are_not_are_refused(coded: Coded, fast: str, picture: Pixels) -> None:
    for model, said in (("split", r"channels sent must be one of \[2, 16\]"), ("local", "sends a coded latent")):
        with (
            Pipeline(coded.device, model, coded.pixels.manifest.input, channels=3) as pipeline,
            pytest.raises(RemoteError, match=said),
        ):
            pipeline.infer([picture])


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_path_may_send_pictures_as_files(coded: Coded, fast: str, picture: Pixels, kind: str) -> None:
    path = PathSpec(
        name="offload",
        accuracy_frac=0.9,
        node=fast,
        model="offload",
        link="up",
        over_link=True,
        picture=PictureFile(kind=kind, quality=60),  # type: ignore[arg-type]
    )
    sent = encode_picture(picture, kind, 60)  # type: ignore[arg-type]
    with Pipeline(fast, "offload", coded.files.manifest.input) as plain:
        expected = plain.infer([sent]).outputs["y"]
    with AdaptivePipeline(Paths(paths=(path,), input=coded.pixels.manifest.input)) as pipeline:
        for items in ([picture], {"payload": picture[None]}):
            reply = pipeline.infer(items)
            np.testing.assert_array_equal(reply.outputs["y"], expected)
            assert reply.bytes_up < len(sent) + 300
        with pytest.raises(InputError, match="a picture must be uint8"):
            pipeline.infer([picture[0, 0]])
        with pytest.raises(InputError, match="pictures must come in the tensor"):
            pipeline.infer({"p": picture[None]})


def test_a_rate_and_a_file_need_a_node() -> None:
    for wrong in ({"channels": 2}, {"picture": PictureFile()}):
        with pytest.raises(ValueError, match="must name a node where it has channels or picture"):
            PathSpec(name="a", accuracy_frac=0.5, artifact="d", **wrong)


def settled(pipeline: AdaptivePipeline, picture: Pixels, name: str) -> None:
    """Requests take the path, after however long; and go on to."""
    until(lambda: pipeline.infer([picture]).made_by == name, f"{name} is the best there is")
    until(lambda: all(one.expected_s is not None for one in pipeline.facts().paths), "all are measured")
    until(lambda: all(pipeline.infer([picture]).made_by == name for _ in range(5)), f"{name} stays it")


@pytest.mark.emulation
def test_the_rate_follows_the_link(coded: Coded, picture: Pixels, tmp_path: Path) -> None:
    for rate_bps, name in ((FAST_BPS, "split-16"), (SLOW_BPS, "split-2")):
        (folder := tmp_path / name).mkdir()
        with over_link(coded, folder, rate_bps) as reached, AdaptivePipeline(coded.paths(reached)) as pipeline:
            settled(pipeline, picture, name)
            reply = pipeline.infer([picture])
            if reply.made_by == name:
                channels = int(name.rpartition("-")[2])
                np.testing.assert_allclose(reply.outputs["y"], coded.expected(picture, channels), rtol=1e-5, atol=1e-6)


@pytest.mark.emulation
def test_the_server_is_killed_and_no_answer_is_lost(
    coded: Coded, picture: Pixels, tmp_path: Path, start_node: Callable[..., Any]
) -> None:
    mine = Coded(coded.device, start_node("above"), coded.pixels, coded.files)
    right = {f"split-{n}": mine.expected(picture, n) for n in CHANNELS}
    right["local"] = mine.expected(picture, CHANNELS[-1])
    replies: list[tuple[Reply, float]] = []
    with over_link(mine, tmp_path, FAST_BPS) as reached, AdaptivePipeline(mine.paths(reached)) as pipeline:
        settled(pipeline, picture, "split-16")
        for i in range(60):
            if i == 20:
                mine.above.process.kill()
                mine.above.process.wait(10)
            begun_s = time.monotonic()
            replies.append((pipeline.infer([picture]), time.monotonic() - begun_s))
        facts = pipeline.facts()
    assert facts.unanswered == 0
    assert all(np.allclose(reply.outputs["y"], right[reply.made_by], rtol=1e-5, atol=1e-6) for reply, _ in replies)
    assert {reply.made_by for reply, _ in replies[20:]} == {"local"}
    assert max(seconds for _, seconds in replies) < 5.0, "nothing hangs on the node that is gone"
