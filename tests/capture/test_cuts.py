from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tierwise._errors import InputError
from tierwise.capture import composition_error, cut_points, find_cut, read_graph, split


def test_no_cut_lies_inside_a_residual_block(residual):
    cuts = cut_points(read_graph(residual))
    # Conv and ReLU of the stem; sum and ReLU of each block; the mean. Nothing between a block's fork and its sum.
    assert [cut.label for cut in cuts] == [
        "stem/Conv", "Relu", "blocks.0/Add", "blocks.0/Relu#2", "blocks.1/Add", "blocks.1/Relu#2", "blocks.2/Add",
        "blocks.2/Relu#2", "ReduceMean",
    ]  # fmt: skip
    assert all(not cut.carried for cut in cuts)


def test_every_cut_composes_to_the_whole(residual, picture):
    for cut in cut_points(read_graph(residual)):
        assert composition_error(residual, split(residual, cut), picture) <= 1e-4, cut.label


def test_arithmetic_of_head_and_tail_adds_up(residual):
    graph = read_graph(residual)
    for cut in cut_points(graph):
        head, tail = (read_graph(part) for part in split(residual, cut))
        assert (cut.head_macs, cut.tail_macs) == (head.macs, tail.macs)
        assert head.macs + tail.macs == graph.macs


def test_bytes_are_those_of_one_item(residual):
    cut = find_cut(cut_points(read_graph(residual)), "blocks.1")
    assert cut.tensor.shape == (-1, 8, 12, 12)
    assert cut.bytes == 4 * 8 * 12 * 12


def test_attention_mask_is_carried_until_the_last_layer_that_reads_it(bert, text):
    cuts = cut_points(read_graph(bert))
    carried = {cut.label: [tensor.name for tensor in cut.carried] for cut in cuts}
    first = find_cut(cuts, "net.bert.encoder.layer.0")
    last = find_cut(cuts, "net.bert.encoder.layer.1")
    assert carried[first.label] == ["attention_mask"]
    assert carried[last.label] == []
    assert first.bytes == 16 * 32 * 4 + 16 * 8
    for cut in cuts:
        head, tail = split(bert, cut)
        assert [value.name for value in tail.graph.input][1:] == carried[cut.label]
        assert composition_error(bert, (head, tail), text) <= 1e-4, cut.label


def test_nothing_that_multiplies_is_repeated_in_the_tail(bert):
    graph = read_graph(bert)
    for cut in cut_points(graph):
        head, tail = (read_graph(part) for part in split(bert, cut))
        assert head.macs + tail.macs == graph.macs


def test_find_cut_names_the_nearest(residual):
    with pytest.raises(InputError, match=r"got 'blocks\.9'.*Near it: blocks\."):
        find_cut(cut_points(read_graph(residual)), "blocks.9")


def test_unknown_primary_input_is_refused(residual):
    with pytest.raises(InputError, match=r"must be one of \['picture'\], but got 'image'"):
        cut_points(read_graph(residual), primary="image")


# -- random graphs ---------------------------------------------------------------------------------------------------


@st.composite
def dags(draw) -> onnx.ModelProto:
    """Sums, products and a few matrix products over one main and one other input, all [batch, 4]."""
    names = ["main", "other"]
    nodes, weights = [], [onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")]
    for i in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["Add", "Sub", "Neg", "Abs", "MatMul"]))
        reads = [draw(st.sampled_from(names[-4:] if draw(st.booleans()) else names))]
        if kind in ("Add", "Sub"):
            reads.append(draw(st.sampled_from(names[-3:])))
        nodes.append(helper.make_node(kind, [*reads, *(["weight"] if kind == "MatMul" else [])], [f"t{i}"], f"n{i}"))
        names.append(f"t{i}")
    answers = sorted({names[-1], *draw(st.sets(st.sampled_from(names[2:]), max_size=1))})
    kind = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("main", "other")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in answers]
    graph = helper.make_graph(nodes, "random", kind, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def brute_force(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Cuts by definition: take a tensor away and look what the outputs still reach."""
    found = {}
    outputs = {value.name for value in model.graph.output}
    makers = {node.output[0]: node for node in model.graph.node}

    def needed(stop: str | None) -> tuple[set[str], list[onnx.NodeProto]]:
        seen, nodes, pending = set(), [], [name for name in outputs if name != stop]
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in makers:
                nodes.append(makers[name])
                pending += [read for read in makers[name].input if read != stop]
        return seen, nodes

    below = {"main"}
    for node in model.graph.node:
        if below & set(node.input):
            below.add(node.output[0])
    whole, _ = needed(None)
    for name in makers:
        if name in outputs or name not in whole or name not in below:
            continue
        seen, nodes = needed(name)
        # What the tail computes without the cut tensor hangs on the other input alone.
        after = {name}
        for node in model.graph.node:
            if after & set(node.input):
                after.add(node.output[0])
        aside = [node for node in nodes if node.output[0] not in after]
        if "main" not in seen and all(node.op_type != "MatMul" for node in aside):
            found[name] = sorted(seen & {"other"})
    return found


@settings(max_examples=60, deadline=None)
@given(dags())
def test_dominators_agree_with_the_definition(model):
    cuts = cut_points(read_graph(model), primary="main")
    assert {cut.tensor.name: [tensor.name for tensor in cut.carried] for cut in cuts} == brute_force(model)


@settings(max_examples=15, deadline=None)
@given(dags())
def test_parts_of_random_graphs_compose(model):
    feeds = {name: np.arange(12, dtype=np.float32).reshape(3, 4) * s for name, s in (("main", 0.5), ("other", -1.5))}
    used = {name for node in model.graph.node for name in node.input}
    graph = read_graph(model)
    for cut in cut_points(graph, primary="main"):
        head, tail = split(model, cut)
        assert "main" in used
        assert composition_error(model, (head, tail), feeds) == 0
        assert cut.head_macs == read_graph(head).macs
        assert cut.tail_macs == read_graph(tail).macs
