"""The two models that every server serves: one that does nothing, and a residual network for 32x32 pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from tierwise.artifact import Artifact, Manifest, Provenance, Segment, TensorInput, TensorSpec, write_artifact

INPUT, OUTPUT = "x", "y"


@final
@dataclass(frozen=True)
class Subject:
    """A model with one FP32 input ``x`` and one output ``y``, and the request that everybody sends.

    Attributes:
        name: What servers call it.
        file: ONNX file.
        request: [1, ...] float32, with few digits each, so that JSON is as short as it can honestly be.
    """

    name: str
    file: Path
    request: npt.NDArray[np.float32]


def make_subjects(folder: Path) -> tuple[Subject, ...]:
    """Write both models into ``folder``; random weights, which cost the same time as trained ones."""
    rng = np.random.default_rng(0)
    vector = rng.integers(0, 100, (1, 256)).astype(np.float32) / 100
    picture = rng.integers(0, 100, (1, 3, 32, 32)).astype(np.float32) / 100
    return (
        Subject("no-op", _write(_no_op(), folder / "no-op.onnx"), vector),
        Subject("resnet20", _write(_resnet20(), folder / "resnet20.onnx"), picture),
    )


def to_artifact(subject: Subject, folder: Path) -> Artifact:
    """The model as a Tierwise artifact, the file untouched."""
    graph = onnx.load(subject.file).graph
    x, y = (
        TensorSpec(name=v.name, dtype="FP32", shape=tuple(d.dim_value or -1 for d in v.type.tensor_type.shape.dim))
        for v in (graph.input[0], graph.output[0])
    )
    manifest = Manifest(
        name=subject.name,
        input=TensorInput(tensors=(x,)),
        outputs=(y,),
        segments=(Segment(file="model.onnx", inputs=(x,), outputs=(y,), macs=0),),
        files=(),
        provenance=Provenance(task="", task_fingerprint="", chain="identity", specs=(), versions={}),
    )
    return write_artifact(folder / subject.name, manifest, {"model.onnx": subject.file.read_bytes()})


def _write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def _no_op() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 256]) for name in (INPUT, OUTPUT))
    graph = helper.make_graph([helper.make_node("Identity", [INPUT], [OUTPUT])], "no-op", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _resnet20() -> onnx.ModelProto:
    """ResNet-20 (He et al. 2016, arXiv 1512.03385, section 4.2): 41 million multiply-accumulates an item."""
    import torch

    from tierwise.capture import export
    from tierwise.tasks import ResNet, build_subject

    torch.manual_seed(0)
    module = build_subject(ResNet(depth=20, width=16), classes=10, channels=3)
    return export(module.eval(), {INPUT: torch.randn(2, 3, 32, 32)}, [OUTPUT])
