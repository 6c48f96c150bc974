from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tierwise._errors import InputError
from tierwise.capture import load_onnx, read_graph


def model(nodes, inputs, outputs, weights=(), opset=20):
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize(
    ("op", "x", "w", "attributes", "macs"),
    [
        ("Conv", (2, 6, 8, 8), (4, 6, 3, 3), {"pads": [1, 1, 1, 1]}, 4 * 8 * 8 * 6 * 9),
        ("Conv", (2, 6, 8, 8), (6, 2, 3, 3), {"group": 3, "strides": [2, 2]}, 6 * 3 * 3 * 2 * 9),
        ("ConvTranspose", (2, 6, 8, 8), (6, 4, 2, 2), {"strides": [2, 2]}, 6 * 8 * 8 * 4 * 4),
        ("Gemm", (2, 5), (5, 7), {}, 5 * 7),
        ("Gemm", (2, 5), (7, 5), {"transB": 1}, 5 * 7),
        ("MatMul", (2, 3, 5), (5, 7), {}, 3 * 5 * 7),
        ("Einsum", (2, 3, 5), (5, 7), {"equation": "bsi,io->bso"}, 3 * 5 * 7),
        ("Add", (2, 5), (5,), {}, 0),
    ],
)
def test_macs_of_one_item(op, x, w, attributes, macs):
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph = read_graph(model([node], [("x", ["batch", *x[1:]])], ["y"], [("w", w)]))
    assert graph.macs == macs


def test_constants_are_no_tensors(residual):
    graph = read_graph(residual)
    initializers = {tensor.name for tensor in residual.graph.initializer}
    assert not initializers & set(graph.tensors)
    assert all(not initializers & set(node.inputs) for node in graph.nodes)


def test_grouped_convolution_counts_its_groups(residual):
    macs = [node.macs for node in read_graph(residual).nodes if node.op == "Conv"]
    full = 8 * 8 * 9 * 144
    assert macs == [8 * 3 * 9 * 144, full, full, full, full // 4, full, full]


def test_labels_are_unique_module_paths(residual):
    labels = [node.label for node in read_graph(residual).nodes]
    assert len(set(labels)) == len(labels)
    assert "fc/Gemm" in labels


def test_batch_axis_is_found_behind_reshapes():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["x", "merged"], ["m"]),
    ]
    small = model(nodes, [("x", ["batch", 3, 4])], ["t", "m"])
    small.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4], np.int64), "merged"))
    tensors = read_graph(small).tensors
    assert tensors["t"].spec.shape == (3, -1, 4)
    assert tensors["t"].portable
    # Three rows an item: a batch cannot be taken apart along this axis.
    assert not tensors["m"].portable


def test_shapes_computed_at_run_time_are_found_by_running():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("Unknown", ["z"], ["q"], domain="ai.onnx.contrib.none"),
    ]
    small = model(nodes[:2], [("x", ["batch", 4])], ["z"])
    assert read_graph(small).tensors["z"].spec.shape == (-1, 4)


def test_open_axis_is_refused_with_its_name():
    small = model([helper.make_node("Neg", ["x"], ["y"])], [("x", ["batch", "length"])], ["y"])
    with pytest.raises(InputError, match=r"input 'x': every axis .* but got axis 1 = length\. Export the model again"):
        read_graph(small)


def test_old_operator_sets_are_converted(tmp_path):
    old = model([helper.make_node("Relu", ["x"], ["y"])], [("x", ["batch", 4])], [], opset=9)
    old.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4]))
    onnx.save(old, tmp_path / "old.onnx")
    assert load_onnx(tmp_path / "old.onnx").opset_import[0].version == 17


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError, match=r"text\.onnx: the file must be a valid ONNX model"):
        load_onnx(tmp_path / "text.onnx")
