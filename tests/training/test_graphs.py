"""The compiler's parts: gradients of convolutions, pruning, passes, liveness, schemes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tierwise._errors import SpecError
from tierwise.artifact import Optimiser
from tierwise.training import Feed, Scheme, read_scheme
from tierwise.training.compiler import (
    Model,
    capture_step,
    divide,
    peak_bytes,
    read_model,
    resolve,
    run_eager,
    run_graph,
    save_masks,
    simplify,
)
from tierwise.training.compiler._convolution import convolution_backward
from tierwise.training.compiler._rules import rules

CASES = [
    (kernel, stride, padding, dilation, groups)
    for kernel, stride, padding, dilation, groups in itertools.product((1, 3, 5), (1, 2), (0, 1, 2), (1, 2), (1, 2, 6))
    if dilation * (kernel - 1) < 9
]


@pytest.mark.parametrize("size", [(9, 10), (12, 11)])
def test_gradients_of_convolutions_are_autograds(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for kernel, stride, padding, dilation, groups in CASES:
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        weight = torch.randn(6, 6 // groups, kernel, kernel, dtype=torch.float64)
        out = torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
        grad = torch.randn_like(out)
        steps = [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups
        wanted = torch.ops.aten.convolution_backward(grad, x, weight, [6], *steps, [True, True, True])
        got = convolution_backward(grad, x, weight, [6], *steps, [True, True, True])
        for mine, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, msg=f"{kernel, stride, padding, dilation, groups}")


@pytest.mark.parametrize("how", [{"kernel_size": 2}, {"kernel_size": (3, 2), "divisor_override": 5}])
def test_gradients_of_mean_pooling_are_autograds(how: dict[str, Any]) -> None:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad((torch.nn.functional.avg_pool2d(x, **how) ** 2).sum(), x)[0]

    x = torch.randn(2, 3, 9, 7)
    graph = make_fx(gradient, decomposition_table=rules(), tracing_mode="fake")(x)
    assert not any("avg_pool2d_backward" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph(x), gradient(x))


def test_mean_pooling_of_windows_that_overlap_is_refused() -> None:
    x = torch.randn(1, 1, 6, 6, requires_grad=True)
    with pytest.raises(NotImplementedError, match="overlap"):
        make_fx(
            lambda x: torch.autograd.grad(torch.nn.functional.avg_pool2d(x, 3, 1).sum(), x)[0],
            decomposition_table=rules(),
            tracing_mode="fake",
        )(x)


def model_of(kit: Any, kind: str) -> tuple[Model, list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]]:
    made = kit.batches(kind, 2)
    model = read_model(kit.seeded(kind), {name: torch.from_numpy(a) for name, a in made[0][0].items()})
    return model, [(tuple(torch.from_numpy(a) for a in x.values()), torch.from_numpy(y)) for x, y in made]


def test_folded_norms_answer_as_the_model_did(kit: Any) -> None:
    model, made = model_of(kit, "mobilenet")
    assert not any("norm" in name or "running" in name for name in model.tensors)
    torch.testing.assert_close(
        model(made[0][0], model.tensors), kit.seeded("mobilenet")(*made[0][0]), rtol=1e-4, atol=1e-4
    )


def test_backward_stops_at_the_earliest_trained_tensor(kit: Any) -> None:
    model, made = model_of(kit, "resnet")
    sizes = []
    for scheme in (Scheme(whole=1), Scheme(whole=3), Scheme(whole="all")):
        joint = capture_step(model, resolve(scheme, model), Optimiser(), *made[0])
        simplify(joint.graph)
        prefix, step = divide(joint)
        sizes.append((0 if prefix is None else len(prefix.graph.graph.nodes), len(step.graph.graph.nodes)))
    assert sizes[0][0] > sizes[1][0] > sizes[2][0] == 0
    assert sizes[0][1] < sizes[1][1] < sizes[2][1]


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_passes_change_no_number(kit: Any, kind: str) -> None:
    model, made = model_of(kit, "resnet")
    how = Optimiser(kind=kind, rate=1e-3)
    trained = resolve(Scheme(biases=6, whole=1, weights={"blocks.1.layers.1.conv": 0.5}), model)
    assert [len(one.channels) for one in trained if one.channels] == [4]
    joint = capture_step(model, trained, how, *made[0])
    simplify(joint.graph)
    before = run_graph(joint, model, trained, how, made, 5)
    assert save_masks(joint.graph) > 0
    after, eager = run_graph(joint, model, trained, how, made, 5), run_eager(model, trained, how, made, 5)
    assert before.losses == after.losses
    np.testing.assert_allclose(after.losses, eager.losses, rtol=1e-5)


def test_liveness_of_a_chain_is_counted_by_hand() -> None:
    def chain(x: torch.Tensor) -> torch.Tensor:
        a = x * 2
        b = a.reshape(-1) + 1  # a lives while b is made
        return (b * 3).sum()  # so does b; the sum is an output and not counted

    graph = torch.fx.experimental.proxy_tensor.make_fx(chain)(torch.zeros(4, 25))
    assert peak_bytes(graph) == 2 * 400


def test_schemes_on_the_command_line() -> None:
    assert read_scheme("full") == Scheme(whole="all")
    assert read_scheme("last-3") == Scheme(whole=3)
    assert read_scheme("bias-6") == Scheme(biases=6, whole=1)
    with pytest.raises(SpecError, match="a scheme must be"):
        read_scheme("last-0")


def test_schemes_that_do_not_fit_are_told(kit: Any) -> None:
    model, _ = model_of(kit, "mobilenet")
    depthwise = next(layer.name for layer in model.layers if not layer.sliceable and layer.computes)
    with pytest.raises(SpecError, match="one of the model's"):
        resolve(Scheme(biases="all", weights={"nothing": 1.0}), model)
    with pytest.raises(SpecError, match="without groups"):
        resolve(Scheme(biases="all", weights={depthwise: 0.5}), model)
    with pytest.raises(SpecError, match="among those whose biases"):
        resolve(Scheme(biases=1, weights={depthwise: 1.0}), model)
    with pytest.raises(SpecError, match=r"has \d+ layers .*; a scheme cannot train more of them, but got 99"):
        resolve(Scheme(whole=99), model)
    with pytest.raises(SpecError, match="must train something"):
        resolve(Scheme(), model)


def test_every_epoch_has_every_item_once_in_another_order() -> None:
    feed = Feed(10, 4, seed=1)
    seen = np.concatenate([feed.indices(step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    assert list(Feed(10, 4, seed=1).indices(3)) == list(feed.indices(3))
