from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import onnx
import pytest

from tierwise._errors import InputError
from tierwise.artifact import TensorSpec
from tierwise.capture import Affine, composition_error, cut_points, find_cut, read_graph, run, split


def test_boundary_as_bytes(residual, picture):
    cut = find_cut(cut_points(read_graph(residual)), "blocks.1")
    seen = run([split(residual, cut)[0]], picture)[cut.tensor.name]
    boundary = Affine.covering(float(seen.min()), float(seen.max()))
    head, tail = split(residual, cut, boundary)
    assert read_graph(head).tensors[head.graph.output[0].name].spec == TensorSpec(
        name=f"{cut.tensor.name}_uint8", dtype="UINT8", shape=(-1, 8, 12, 12)
    )
    sent = run([head], picture)[f"{cut.tensor.name}_uint8"]
    assert sent.dtype == np.uint8
    assert np.abs(boundary.scale * (sent.astype(float) - boundary.zero_point) - seen).max() <= 0.51 * boundary.scale
    assert 0 < composition_error(residual, (head, tail), picture) < 0.05


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_affine_covers_its_range_and_zero(low, high):
    affine = Affine.covering(low, high)
    ends = [affine.scale * (byte - affine.zero_point) for byte in (0, 255)]
    assert 0 <= affine.zero_point <= 255
    assert ends[0] - affine.scale <= min(low, 0)
    assert ends[1] + affine.scale >= max(high, 0)


def test_parts_are_valid_and_hold_only_their_weights(residual):
    cut = find_cut(cut_points(read_graph(residual)), "blocks.1")
    head, tail = split(residual, cut)
    for part in (head, tail):
        onnx.checker.check_model(part, full_check=True)
    assert {"fc.weight", "blocks.2.conv1.weight"} <= {tensor.name for tensor in tail.graph.initializer}
    assert not {"fc.weight", "blocks.2.conv1.weight"} & {tensor.name for tensor in head.graph.initializer}


def test_a_tensor_that_is_no_cut_is_refused(residual):
    graph = read_graph(residual)
    cut = find_cut(cut_points(graph), "blocks.1")
    inside = next(node for node in graph.nodes if node.label == "blocks.1/Relu").outputs[0]
    wrong = msgspec.structs.replace(cut.tensor, name=inside)
    with pytest.raises(InputError, match="one of the model's own cut points"):
        split(residual, dataclasses.replace(cut, tensor=wrong))


def test_integers_cannot_be_sent_as_other_bytes(residual):
    cut = cut_points(read_graph(residual))[0]
    whole = dataclasses.replace(cut, tensor=msgspec.structs.replace(cut.tensor, dtype="INT64"))
    with pytest.raises(InputError, match="only a float32 tensor can be sent as uint8, but got INT64"):
        split(residual, whole, Affine(0.1, 0))
