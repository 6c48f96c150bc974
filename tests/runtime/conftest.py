"""Small models as artifacts, and real nodes to serve them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tierwise.artifact import (
    Artifact,
    Exit,
    ImageInput,
    InputEncoding,
    Manifest,
    Provenance,
    Segment,
    TensorInput,
    TensorSpec,
    write_artifact,
)

PROVENANCE = Provenance(task="t", task_fingerprint="f", chain="identity", specs=(), versions={})


def fp32(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="FP32", shape=(-1, *shape))


def onnx_model(nodes: list[Any], inputs: list[TensorSpec], outputs: list[TensorSpec], **weights: Any) -> bytes:
    """An ONNX model of FP32 tensors, as bytes."""

    def infos(specs: list[TensorSpec]) -> list[Any]:
        return [
            helper.make_tensor_value_info(s.name, TensorProto.FLOAT, ["n" if a < 0 else a for a in s.shape])
            for s in specs
        ]

    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


X, BIAS, H, G, Y = fp32("x", 4), fp32("bias", 3), fp32("h", 6), fp32("g", 5), fp32("y", 3)


def chain_parts(scale: float = 1.0) -> list[tuple[bytes, Segment]]:
    """x -> h | h -> g | (g, bias) -> y: three segments; `bias` is wanted by the last only."""
    rng = np.random.default_rng(7)
    w0, w1, w2 = (rng.normal(size=shape) for shape in ((4, 6), (6, 5), (5, 3)))
    node = helper.make_node
    parts = [
        (onnx_model([node("MatMul", ["x", "w0"], ["a"]), node("Relu", ["a"], ["h"])], [X], [H], w0=w0 * scale), X, H),
        (onnx_model([node("MatMul", ["h", "w1"], ["b"]), node("Tanh", ["b"], ["g"])], [H], [G], w1=w1), H, G),
    ]
    last = onnx_model([node("MatMul", ["g", "w2"], ["c"]), node("Add", ["c", "bias"], ["y"])], [G, BIAS], [Y], w2=w2)
    segments = [
        (content, Segment(file=f"segments/{i}.onnx", inputs=(given,), outputs=(made,), macs=1))
        for i, (content, given, made) in enumerate(parts)
    ]
    return [*segments, (last, Segment(file="segments/2.onnx", inputs=(G, BIAS), outputs=(Y,), macs=1))]


def make_artifact(
    directory: Path,
    parts: list[tuple[bytes, Segment]],
    encoding: InputEncoding,
    outputs: tuple[TensorSpec, ...],
    **files: bytes,
) -> Artifact:
    manifest = Manifest(
        name="m",
        input=encoding,
        outputs=outputs,
        segments=tuple(segment for _, segment in parts),
        files=(),
        provenance=PROVENANCE,
    )
    return write_artifact(directory, manifest, {segment.file: content for content, segment in parts} | files)


@pytest.fixture
def make() -> Callable[..., Artifact]:
    """`make_artifact`."""
    return make_artifact


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The three segments of `chain_parts`."""
    directory = tmp_path_factory.mktemp("artifacts") / "chain"
    return make_artifact(directory, chain_parts(), TensorInput(tensors=(X, BIAS)), (Y,))


@pytest.fixture(scope="session")
def other_chain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Like `chain`, with other weights: other answers."""
    directory = tmp_path_factory.mktemp("artifacts") / "other"
    return make_artifact(directory, chain_parts(-2.0), TensorInput(tensors=(X, BIAS)), (Y,))


SURE, EARLY = fp32("sure", 1), fp32("early", 3)


@pytest.fixture(scope="session")
def exiting(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`chain`, whose first segment also answers ``early`` and is as sure as the first entry of ``x`` says."""
    rng = np.random.default_rng(7)
    weights = {"w0": rng.normal(size=(4, 6)), "pick": np.eye(4)[:, :1], "we": rng.normal(size=(4, 3))}
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]),
        node("Relu", ["a"], ["h"]),
        node("MatMul", ["x", "pick"], ["sure"]),
        node("MatMul", ["x", "we"], ["early"]),
    ]
    first = Segment(
        file="segments/0.onnx",
        inputs=(X,),
        outputs=(H, SURE, EARLY),
        macs=1,
        exit=Exit(confidence="sure", threshold=0.5, answers={"y": "early"}),
    )
    parts = [(onnx_model(nodes, [X], [H, SURE, EARLY], **weights), first), *chain_parts()[1:]]
    return make_artifact(tmp_path_factory.mktemp("exits") / "a", parts, TensorInput(tensors=(X, BIAS)), (Y,))


@pytest.fixture(scope="session")
def picture_model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """JPEG [8 x 8], grey -> (p: FP32 [n, 1, 8, 8]) -> the mean over the picture, FP32 [n, 1, 1, 1]."""
    given, made = fp32("p", 1, 8, 8), fp32("y", 1, 1, 1)
    content = onnx_model([helper.make_node("GlobalAveragePool", ["p"], ["y"])], [given], [made])
    segment = Segment(file="m.onnx", inputs=(given,), outputs=(made,), macs=1)
    encoding = ImageInput(encoding="jpeg", height=8, width=8, channels=1, mean=(0.0,), std=(1.0,), tensor="p")
    directory = tmp_path_factory.mktemp("artifacts") / "picture"
    return make_artifact(directory, [(content, segment)], encoding, (made,))


@pytest.fixture(scope="session")
def inputs() -> dict[str, npt.NDArray[Any]]:
    """A batch of two for `chain`."""
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=(2, 4)).astype(np.float32),
        "bias": rng.normal(size=(2, 3)).astype(np.float32),
    }


@pytest.fixture(scope="session")
def directly() -> Callable[[Artifact, dict[str, npt.NDArray[Any]]], npt.NDArray[Any]]:
    """What ONNX Runtime itself answers for `chain`, segment by segment."""

    def run(artifact: Artifact, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        known = dict(tensors)
        for segment in artifact.manifest.segments:
            session = onnxruntime.InferenceSession(str(artifact.path(segment.file)), providers=["CPUExecutionProvider"])
            names = [spec.name for spec in segment.outputs]
            fed = {spec.name: known[spec.name] for spec in segment.inputs}
            known.update(zip(names, session.run(names, fed), strict=True))
        return known["y"]

    return run


@pytest.fixture(scope="module")
def start_node(running_nodes: Callable[[], AbstractContextManager[Callable[..., Any]]]) -> Iterator[Callable[..., Any]]:
    """Starts nodes; they end with the module's tests."""
    with running_nodes() as start:
        yield start
