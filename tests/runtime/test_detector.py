"""A detector cut over two nodes answers a picture as it does in process."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tierwise.artifact import (
    Artifact,
    Detections,
    ImageInput,
    Manifest,
    Preprocessor,
    Provenance,
    Segment,
    TensorSpec,
    detections_spec,
    to_payload,
    write_artifact,
)
from tierwise.runtime import Executor, Pipeline, Placed, Share, deploy, tensors_at

BOXES = Detections(tensor="cells", layout="grid", classes=(0, 1), most=8)
ENCODING = ImageInput(
    encoding="jpeg", height=32, width=32, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, fit="letterbox", order="bgr"
)


def convolution(arriving: str, leaving: str, channels: tuple[int, int], stride: int, seed: int) -> bytes:
    """One convolution of random weights as a model."""
    weights = np.random.default_rng(seed).standard_normal((channels[1], channels[0], stride, stride)) * 0.5
    node = helper.make_node("Conv", [arriving, "w"], [leaving], strides=[stride, stride])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count, None, None])
        for name, count in ((arriving, channels[0]), (leaving, channels[1]))
    ]
    constant = numpy_helper.from_array(weights.astype(np.float32), "w")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def detector(directory: Path) -> Artifact:
    x, h, y = (
        TensorSpec(name=name, dtype="FP32", shape=(-1, *shape))
        for name, shape in (("input", (3, 32, 32)), ("h", (4, 8, 8)), ("cells", (7, 4, 4)))
    )
    manifest = Manifest(
        name="detector",
        input=ENCODING,
        outputs=(detections_spec(BOXES),),
        labels=("a", "b"),
        segments=(
            Segment(file="0.onnx", inputs=(x,), outputs=(h,), macs=1),
            Segment(file="1.onnx", inputs=(h,), outputs=(y,), macs=1),
        ),
        files=(),
        provenance=Provenance(task="t", task_fingerprint="f", chain="identity", specs=(), versions={}),
        boxes=BOXES,
    )
    files = {"0.onnx": convolution("input", "h", (3, 4), 4, 1), "1.onnx": convolution("h", "cells", (4, 7), 2, 2)}
    return write_artifact(directory, manifest, files)


def test_a_jpeg_gets_the_same_boxes_from_nodes_as_in_process(start_node: Callable[..., Any], tmp_path: Path) -> None:
    artifact = detector(tmp_path / "detector")
    assert [spec.name for spec in tensors_at(artifact, 0)] == ["input"]
    assert [spec.name for spec in tensors_at(artifact, 1)] == ["h"]
    assert [spec.name for spec in tensors_at(artifact, 2)] == ["detections"]
    pictures = []
    for seed, size in enumerate(((24, 48, 3), (40, 20, 3))):
        pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        pictures.append(file.getvalue())
    expected = Executor(artifact, threads=1).run(Preprocessor(ENCODING)(to_payload(ENCODING, pictures)))["detections"]
    assert expected.shape == (2, 8, 6)
    assert (expected[:, 0, 5] >= 0).all()
    lower, upper = start_node("device"), start_node("edge")
    for ranges in ([(0, 2)], [(0, 1), (1, 2)], [(0, 0), (0, 2)]):
        ways = [upper.tcp if len(ranges) == 2 else None, None]
        placement = [
            Placed(control=node.unix, share=Share(segments=segments, forward=way))
            for node, segments, way in zip((lower, upper), ranges, ways, strict=False)
        ]
        deploy(artifact, "detector", placement)
        with Pipeline(lower.unix, "detector", ENCODING) as pipeline:
            reply = pipeline.infer(pictures)
        np.testing.assert_array_equal(reply.outputs["detections"], expected)
