from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from tierwise._errors import ArtifactError, InputError
from tierwise.artifact import Artifact, Segment, TensorInput, TensorSpec
from tierwise.runtime import Executor, default_threads
from tierwise.runtime._executor import tensors_at
from tierwise.runtime._external import _CHILDREN

Inputs = dict[str, Any]
X, Y = (TensorSpec(name=name, dtype="FP32", shape=(-1, 4)) for name in "xy")


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_cut_anywhere_the_answer_is_that_of_the_runtime_itself(
    chain: Artifact, inputs: Inputs, directly: Callable[..., Any], cut: int
) -> None:
    wanted = directly(chain, inputs)
    if cut == 0:
        given = Executor(chain, threads=1).run(inputs)
    else:
        lower, upper = Executor(chain, (0, cut), threads=1), Executor(chain, (cut, 3), threads=1)
        crossing = lower.run(inputs)
        assert {spec.name for spec in lower.outputs} == set(crossing) == {spec.name for spec in upper.inputs}
        given = upper.run(crossing)
    np.testing.assert_allclose(given["y"], wanted, atol=1e-6)


def test_what_crosses_a_border_is_what_later_segments_need(chain: Artifact) -> None:
    names = [[spec.name for spec in tensors_at(chain, border)] for border in range(4)]
    assert names == [["x", "bias"], ["h", "bias"], ["g", "bias"], ["y"]]


def test_cold_figures_are_kept(chain: Artifact, inputs: Inputs) -> None:
    executor = Executor(chain, threads=1)
    assert executor.load_s > 0
    assert executor.first_run_s is None
    executor.run(inputs)
    first = executor.first_run_s
    assert first is not None
    executor.run(inputs)
    assert executor.first_run_s == first


def test_threads_are_never_fewer_than_one() -> None:
    assert [default_threads(cpus) for cpus in (0.2, 1.0, 1.9, 3.5)] == [1, 1, 1, 3]
    assert default_threads() >= 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": None}, r"must hold the tensors \['x', 'bias'\], but got \['bias'\]"),
        ({"x": np.zeros((2, 4))}, r"x: the tensor must be FP32 \[-1, 4\], but got FP64 \[2, 4\]"),
        ({"x": np.zeros((2, 5), np.float32)}, r"x: the tensor must be FP32 \[-1, 4\], but got FP32 \[2, 5\]"),
        ({"x": np.zeros(4, np.float32)}, r"but got FP32 \[4\]"),
        ({"x": np.zeros((3, 4), np.float32)}, r"the same batch, but got \{'x': 3, 'bias': 2\}"),
    ],
)
def test_tensors_that_do_not_fit_are_named(chain: Artifact, inputs: Inputs, change: Inputs, text: str) -> None:
    tensors = {name: array for name, array in (inputs | change).items() if array is not None}
    with pytest.raises(InputError, match=text):
        Executor(chain, threads=1).run(tensors)


def test_ranges_that_do_not_fit_are_named(chain: Artifact) -> None:
    for segments in ((0, 4), (2, 2), (-1, 1)):
        with pytest.raises(InputError, match="within the artifact's 3, but got"):
            Executor(chain, segments, threads=1)


def test_values_the_model_refuses_are_the_callers_fault(tmp_path: Path, make: Callable[..., Artifact]) -> None:
    ids, rows = (
        TensorSpec(name="ids", dtype="INT64", shape=(-1, 1)),
        TensorSpec(name="rows", dtype="FP32", shape=(-1, 1, 2)),
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 1])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 1, 2])],
        [numpy_helper.from_array(np.zeros((3, 2), np.float32), "table")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    segment = Segment(file="m.onnx", inputs=(ids,), outputs=(rows,), macs=0)
    artifact = make(tmp_path / "a", [(content, segment)], TensorInput(tensors=(ids,)), (rows,))
    with pytest.raises(InputError, match=r"m\.onnx: the model must accept the values \(.*out of data bounds"):
        Executor(artifact, threads=1).run({"ids": np.array([[9]])})


def add_model(weight: Any) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def external(tmp_path: Path, location: str) -> tuple[bytes, bytes]:
    """A model whose weight lies in `location`, and that file's content."""
    model = add_model(numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"))
    convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    folder = tmp_path / "made"
    folder.mkdir(exist_ok=True)
    onnx.save_model(model, folder / "m.onnx")
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    return model.SerializeToString(), (folder / "w.bin").read_bytes()


def test_weights_in_a_file_of_the_artifact_are_read(tmp_path: Path, make: Callable[..., Artifact]) -> None:
    content, weights = external(tmp_path, "w.bin")
    segment = Segment(file="seg/m.onnx", inputs=(X,), outputs=(Y,), macs=0)
    artifact = make(tmp_path / "a", [(content, segment)], TensorInput(tensors=(X,)), (Y,), **{"seg/w.bin": weights})
    answer = Executor(artifact, threads=1).run({"x": np.ones((1, 4), np.float32)})
    assert answer["y"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "unlisted.bin", "sub/../w.bin", "../../secret"])
def test_weights_outside_the_artifact_are_refused(tmp_path: Path, make: Callable[..., Artifact], location: str) -> None:
    content, weights = external(tmp_path, location)
    segment = Segment(file="seg/m.onnx", inputs=(X,), outputs=(Y,), macs=0)
    encoding = TensorInput(tensors=(X,))
    files = {"w.bin": weights, "seg/w.bin": weights}
    artifact = make(tmp_path / "a", [(content, segment)], encoding, (Y,), **files)
    # The file is there, so that only the check stands between the model and it.
    outside = artifact.path("seg/unlisted.bin")
    outside.write_bytes(weights)
    with pytest.raises(ArtifactError, match=f"must lie in the model or in a file .* but got '{location}'"):
        Executor(artifact, threads=1)


def test_a_hidden_tensor_is_found_too(tmp_path: Path, make: Callable[..., Artifact]) -> None:
    """A tensor can lie in an attribute of a node in a subgraph."""
    hidden = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=hidden)],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [4])],
    )
    model = add_model(numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"))
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    segment = Segment(file="m.onnx", inputs=(X,), outputs=(Y,), macs=0)
    artifact = make(tmp_path / "a", [(model.SerializeToString(), segment)], TensorInput(tensors=(X,)), (Y,))
    with pytest.raises(ArtifactError, match="but got '/etc/passwd'"):
        Executor(artifact, threads=1)


def test_the_reader_knows_every_place_of_a_tensor() -> None:
    """Against ONNX's own definition: each message field that can lead to a tensor is followed."""
    kinds = {
        "model": onnx.ModelProto, "graph": onnx.GraphProto, "training": onnx.TrainingInfoProto,
        "function": onnx.FunctionProto, "node": onnx.NodeProto, "attribute": onnx.AttributeProto,
        "sparse": onnx.SparseTensorProto, "tensor": onnx.TensorProto,
    }  # fmt: skip
    names = {message.DESCRIPTOR.full_name: kind for kind, message in kinds.items()}
    for kind, message in kinds.items():
        leads = {
            field.number: names[field.message_type.full_name]
            for field in message.DESCRIPTOR.fields
            if field.message_type is not None and field.message_type.full_name in names
        }
        if kind == "tensor":
            leads[message.DESCRIPTOR.fields_by_name["external_data"].number] = "entry"
        assert _CHILDREN[kind] == leads, kind


@pytest.mark.parametrize("content", [b"", b"junk", b"\x3a\xff\xff\xff\xff\x0f", bytes(50), b"\x0b\x0c"])
def test_junk_is_not_a_model(tmp_path: Path, make: Callable[..., Artifact], content: bytes) -> None:
    segment = Segment(file="m.onnx", inputs=(X,), outputs=(Y,), macs=0)
    artifact = make(tmp_path / "a", [(content, segment)], TensorInput(tensors=(X,)), (Y,))
    with pytest.raises(ArtifactError, match=r"m\.onnx: (a segment must be an ONNX model|ONNX Runtime must be able)"):
        Executor(artifact, threads=1)


def test_a_model_must_be_what_its_manifest_says(tmp_path: Path, make: Callable[..., Artifact]) -> None:
    content = add_model(numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")).SerializeToString()
    other = msgspec.structs.replace(X, name="z")
    segment = Segment(file="m.onnx", inputs=(other,), outputs=(Y,), macs=0)
    artifact = make(tmp_path / "a", [(content, segment)], TensorInput(tensors=(other,)), (Y,))
    with pytest.raises(ArtifactError, match=r"inputs must be those of the manifest, \['z'\], but got \['x'\]"):
        Executor(artifact, threads=1)
