"""Memory of a step: masks, the order of nodes, the timeline, and what the session does with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from torch.fx.experimental.proxy_tensor import make_fx

from tierwise._errors import InputError
from tierwise.artifact import Artifact, Optimiser
from tierwise.training import Scheme, TrainingSession
from tierwise.training._tensor_file import read_tensors
from tierwise.training._verify import relative_error
from tierwise.training.compiler import (
    capture_step,
    compile_training,
    eager_timeline,
    order_for_memory,
    pack_masks,
    peak_bytes,
    plan_graph,
    read_model,
    resolve,
    run_graph,
    save_masks,
    simplify,
    timeline_of,
)
from tierwise.training.compiler._rules import rules
from tierwise.training.compiler._timeline import Run, Tensors

FLOAT = onnx.TensorProto.FLOAT


def test_a_mask_takes_the_place_of_the_activation_and_no_gradient_changes(kit: Any) -> None:
    made = kit.batches("mobilenet", 2)
    model = read_model(kit.seeded("mobilenet"), {n: torch.from_numpy(a) for n, a in made[0][0].items()})
    batches = [(tuple(torch.from_numpy(a) for a in x.values()), torch.from_numpy(y)) for x, y in made]
    trained, how = resolve(Scheme(biases="all", whole=1), model), Optimiser(kind="sgd", rate=0.01)
    joint = capture_step(model, trained, how, *batches[0])
    simplify(joint.graph)
    before, peak = run_graph(joint, model, trained, how, batches, 4), peak_bytes(joint.graph)
    assert save_masks(joint.graph) >= 35  # two or three of its nodes move for every ReLU6
    after = run_graph(joint, model, trained, how, batches, 4)
    assert before.losses == after.losses
    for name, tensor in before.finals.items():
        torch.testing.assert_close(after.finals[name], tensor, rtol=0, atol=0)
    assert peak_bytes(joint.graph) < 0.75 * peak


@pytest.mark.parametrize("bounded", [torch.relu, torch.nn.functional.relu6, lambda x: torch.clamp(x, -0.5, 0.5)])
def test_masks_at_the_bounds_are_autograds(bounded: Any) -> None:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad((bounded(x * 1.0) * 3).sum(), x)[0]

    x = torch.tensor([-1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 3.0, 6.0, 7.0, float("inf"), float("-inf")])
    graph = make_fx(gradient, decomposition_table=rules(), tracing_mode="fake")(x)
    simplify(graph)
    save_masks(graph)
    torch.testing.assert_close(graph(x), gradient(x), rtol=0, atol=0)


def model_of(nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str], sizes: dict[str, int]) -> Any:
    def typed(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [make_tensor_value_info(name, FLOAT, [sizes.get(name, 100)]) for name in names]

    between = [n for node in nodes for n in node.output if n not in outputs]
    graph = make_graph(nodes, "g", typed(inputs), typed(outputs), value_info=typed(between))
    return make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10)


def test_a_timeline_is_counted_by_hand() -> None:
    nodes = [
        make_node("Exp", ["x"], ["a"], "first"),
        make_node("Reshape", ["a", "shape"], ["b"], "second"),  # the memory of a
        make_node("Exp", ["b"], ["c"], "third"),  # beside it
        make_node("Where", ["w", "c", "a"], ["d"], "fourth"),  # which takes two more for itself
        make_node("Exp", ["d"], ["y"], "last"),  # into the caller's buffer
    ]
    line = timeline_of(model_of(nodes, ["x", "shape", "w"], ["y"], {}))
    assert [m.bytes for m in line.moments] == [400, 400, 800, 2000, 400]
    assert [(h.name, h.first, h.last) for h in line.held] == [("a", 0, 3), ("c", 2, 3), ("d", 3, 4)]
    assert line.peak_bytes == 2000
    assert [h.name for h in line.at_peak(1)] == ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_what_a_node_would_add_is_the_same_however_often_it_was_asked(seed: int) -> None:
    """Asked after every node, what was kept from before is what a run that was never asked says."""
    rng = np.random.default_rng(seed)
    names, nodes = ["x", "p", "q"], []
    for i in range(14):
        kind = str(rng.choice(["Reshape", "Where", "Exp", "Sub"]))
        count = {"Reshape": 2, "Where": 3, "Exp": 1, "Sub": 2}[kind]
        nodes.append(make_node(kind, [str(rng.choice(names)) for _ in range(count)], [f"t{i}"], f"node {i}"))
        names.append(f"t{i}")
    sizes = {f"t{i}": int(rng.integers(1, 9)) for i in range(14)}
    graph = model_of(nodes, ["x", "p", "q"], ["t13"], sizes).graph
    asked = Run(Tensors(graph))
    for done in range(len(nodes)):
        fresh = Run(Tensors(graph))
        for i in range(done):
            _, ended = fresh.run(i)
            fresh.free([name for name in ended if name])
        later = range(done, len(nodes))
        ready = [i for i in later if {*nodes[i].input} & {f"t{j}" for j in later} == set()]
        assert [asked.change(i) for i in ready] == [fresh.change(i) for i in ready]
        _, ended = asked.run(done)
        asked.free([name for name in ended if name])


def test_a_gradient_is_consumed_before_the_next_one_is_made() -> None:
    """As traced: three gradients, then three updates; ordered: one gradient at a time, old state read first."""
    nodes = [make_node("Softmax", ["x"], ["g0"], "gradient 0")]
    nodes += [make_node("Softmax", ["x" if i else "p2"], [f"g{i}"], f"gradient {i}") for i in (1, 2)]
    nodes += [make_node("Sub", [f"p{i}", f"g{i}"], [f"next.p{i}"], f"update {i}") for i in range(3)]
    nodes += [make_node("Softmax", ["p0"], ["loss"], "reads the old state")]
    model = model_of(nodes, ["x", "p0", "p1", "p2"], [f"next.p{i}" for i in range(3)] + ["loss"], {})
    assert timeline_of(model).peak_bytes == 1200
    assert order_for_memory(model).peak_bytes == 400
    names = [node.name for node in model.graph.node]
    assert names.index("reads the old state") < names.index("update 0")
    onnx.checker.check_model(model)


def same(one: Path, other: Path) -> None:
    """Two checkpoints hold the same bits."""
    (mine, about), (theirs, what) = read_tensors(one), read_tensors(other)
    assert (about, sorted(mine)) == (what, sorted(theirs))
    for name, tensor in mine.items():
        np.testing.assert_array_equal(tensor, theirs[name], strict=True)


def test_the_planned_order_needs_less_and_lean_learns_the_same(kit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    scheme = Scheme(biases=9, whole=1)
    made = compile_training(
        kit.seeded("mobilenet"), kit.lesson("mobilenet", 4), scheme, Optimiser(kind="momentum"), folder
    )
    spec = made.manifest.training
    assert spec is not None
    assert spec.plan.predicted_peak_bytes < spec.plan.predicted_traced_peak_bytes
    assert spec.prefix_items < spec.batch == 4
    apart, within = TrainingSession(made), TrainingSession(made, lean=True)
    inputs, labels = kit.batches("mobilenet", 4)[0]
    for _ in range(3):
        assert apart.step(inputs, labels) == pytest.approx(within.step(inputs, labels), rel=1e-5)
    apart.save(tmp_path / "apart")
    within.save(tmp_path / "within")
    (mine, _), (theirs, _) = read_tensors(tmp_path / "apart"), read_tensors(tmp_path / "within")
    assert relative_error(mine, theirs) < 1e-5  # layouts of the processor round otherwise


def test_masks_of_bits_need_less_and_change_no_number(kit: Any) -> None:
    """A chain whose masks wait: [4, 1024] each, one of them read twice, and one that no byte ends with."""
    sizes, nodes, wide = (4, 1024), [], {}
    for i in range(5):
        nodes.append(make_node("Neg", [f"x{i}"], [f"x{i + 1}"], f"forward {i}"))
        nodes.append(make_node("Greater", [f"x{i + 1}", "low"], [f"m{i}"], f"mask {i}"))
    for i in reversed(range(5)):
        reader = "y" if i == 0 else f"g{i}"
        nodes.append(make_node("Cast", [f"m{i}"], [f"f{i}"], f"factor {i}", to=FLOAT))
        nodes.append(make_node("Mul", [f"f{i}", "x5" if i == 4 else f"g{i + 1}"], [reader], f"backward {i}"))
    nodes.append(make_node("Cast", ["m4"], ["z"], "again", to=FLOAT))
    wide = {n: onnx.TensorProto.BOOL if n.startswith("m") else FLOAT for node in nodes for n in node.output}
    between = [make_tensor_value_info(n, kind, sizes) for n, kind in wide.items() if n not in ("y", "z")]
    ends = [make_tensor_value_info(n, FLOAT, sizes) for n in ("x0", "y", "z")]
    low = onnx.numpy_helper.from_array(np.array(0, np.float32), "low")
    graph = make_graph(nodes, "g", ends[:1], ends[1:], [low], value_info=between)
    plain = make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10)
    packed = onnx.ModelProto.FromString(plain.SerializeToString())
    assert pack_masks(packed) == 5
    onnx.checker.check_model(packed, full_check=True)
    given = {"x0": np.random.default_rng(0).standard_normal(sizes).astype(np.float32)}
    before, after = (
        ort.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)
        for one in (plain, packed)
    )
    for mine, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(mine, theirs, strict=True)
    assert set(np.unique(after[1])) == {0, 1}
    live = [one.bytes for one in timeline_of(packed).held if one.name.endswith(".bits")]
    assert live == [4096 // 8] * 5
    content = plain.SerializeToString()
    bits, whole = (plan_graph(content, bit_masks=bit_masks).timeline.peak_bytes for bit_masks in (True, False))
    assert bits < whole


@pytest.mark.parametrize("lean", [False, True])
def test_a_bad_batch_changes_no_state(kit: Any, small: Artifact, tmp_path: Path, lean: bool) -> None:
    session = TrainingSession(small, lean=lean)
    inputs, labels = kit.batches("resnet", 2)[0]
    session.save(tmp_path / "before")
    with pytest.raises(InputError, match="loss must stay finite"):
        session.step({"input": np.full_like(inputs["input"], np.nan)}, labels)
    session.save(tmp_path / "after")
    same(tmp_path / "before", tmp_path / "after")


def test_what_eager_pytorch_keeps_is_followed() -> None:
    x = torch.randn(100, 100)

    def step() -> torch.Tensor:
        a = x * 2
        b = a + 1
        del a
        return (b @ x).sum()

    line = eager_timeline(step)
    assert [m.bytes for m in line.moments][:3] == [40_000, 80_000, 80_000]
    assert [(h.bytes, h.first, h.last) for h in line.held][:1] == [(40_000, 0, 1)]


def test_constants_that_are_cast_keep_no_activation_apart() -> None:
    nodes = [
        make_node("Constant", [], ["low"], "low", value_int=0),
        make_node("Constant", [], ["high"], "high", value_int=6),
        make_node("CastLike", ["low", "x"], ["low.cast"], "low_cast"),
        make_node("CastLike", ["high", "x"], ["high.cast"], "high_cast"),
        make_node("Conv", ["x", "w"], ["y"], "conv"),
        make_node("Clip", ["y", "low.cast", "high.cast"], ["z"], "clip"),
    ]
    value = lambda name, *shape: make_tensor_value_info(name, FLOAT, shape)  # noqa: E731
    graph = make_graph(nodes, "g", [value("x", 1, 2, 4, 4)], [value("z", 1, 3, 4, 4)])
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 2, 1, 1), np.float32), "w"))
    content = make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10).SerializeToString()
    made = onnx.load_from_string(plan_graph(content).content)
    assert [node.op_type for node in made.graph.node] == ["FusedConv"]
