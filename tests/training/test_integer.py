"""Integer training: exact arithmetic, right gradients, scaling that restores the ratios of floating point."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tierwise._errors import InputError
from tierwise.artifact import Optimiser
from tierwise.tasks import BuiltinTask, ResNet, build_subject, load_task
from tierwise.training import Scheme
from tierwise.training.compiler import (
    IntegerModel,
    Model,
    integer_gradients,
    quantise,
    read_model,
    resolve,
    run_eager,
    run_integer,
    train_task_in_integers,
)

Batches = list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]


Made = Callable[[str], tuple[Model, IntegerModel, Batches]]


@pytest.fixture(scope="module")
def made(kit: Any) -> Made:
    """A model, its integers and batches; nothing here changes them, and capturing takes seconds."""

    @functools.cache
    def make(kind: str) -> tuple[Model, IntegerModel, Batches]:
        arrays = kit.batches(kind, 8)
        model = read_model(kit.seeded(kind), {name: torch.from_numpy(a) for name, a in arrays[0][0].items()})
        batches = [(tuple(torch.from_numpy(a) for a in x.values()), torch.from_numpy(y)) for x, y in arrays]
        return model, quantise(model, [inputs for inputs, _ in batches]), batches

    return make


@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_integers_answer_nearly_as_the_model_does(made: Made, kind: str) -> None:
    model, integers, batches = made(kind)
    wanted = model(batches[0][0], model.tensors).detach()
    got = integers(batches[0][0], integers.tensors)
    assert float((got - wanted).norm() / wanted.norm()) < 0.1
    for name, scale in integers.scales.items():
        q = integers.tensors[name]
        assert torch.equal(q, q.round()), name
        assert q.ndim == 1 or float(q.abs().max()) == 127, name
        error = (integers.real(name, q) - model.tensors[name]).abs().detach()
        # Of a bias, float32 itself keeps 24 bits.
        assert bool((error <= 0.5001 * scale + 2.0**-22 * model.tensors[name].detach().abs()).all()), name
    assert not any(name.startswith("classifier") for name in integers.scales)


def test_a_layer_is_what_64_bit_integers_make_of_it(made: Made) -> None:
    """The first convolution with its ReLU, written out in integers, with one multiplier for each channel."""
    _, integers, batches = made("resnet")
    graph = integers.graph.graph
    conv = next(node for node in graph.nodes if node.target is torch.ops.aten.conv2d.default)
    (behind,) = conv.users
    given, grid = integers.grids[conv.args[0].name], integers.grids[behind.name]
    weight, bias = (integers.tensors[str(node.target)] for node in conv.args[1:3])
    x = batches[0][0][0]
    q = torch.clamp((x / given.scale).round(), -128 - given.zero, 127 - given.zero).to(torch.int64)
    total = torch.nn.functional.conv2d(q.double(), weight.double(), None, 1, 1).to(torch.int64)
    total += bias.to(torch.int64)[:, None, None]
    multiplier = integers.scales[str(conv.args[1].target)].flatten().double() * given.scale / grid.scale
    wanted = torch.clamp((total.clamp(min=0) * multiplier[:, None, None]).round(), -128 - grid.zero, 127 - grid.zero)
    got = integers.values(batches[0][0], integers.tensors)[behind.name] / grid.scale
    torch.testing.assert_close(got, got.round(), rtol=0, atol=1e-3)
    # A sum that lies halfway between two numbers may fall to either side in 32 bits.
    different = (got.round().double() - wanted).abs()
    assert float(different.max()) <= 1
    assert float((different > 0).double().mean()) < 1e-3


def test_gradients_are_those_of_the_values_that_the_integers_stand_for(made: Made) -> None:
    """By the chain rule: of an integer s G, where G is autograd's at the weight s q; scaled: G / s."""
    model, integers, batches = made("mobilenet")
    trained = resolve(Scheme(whole="all"), model)
    reals = {name: integers.real(name, q).detach().requires_grad_() for name, q in integers.tensors.items()}
    back = {name: real / integers.scales[name] if name in integers.scales else real for name, real in reals.items()}
    loss = torch.nn.functional.cross_entropy(integers(batches[0][0], back), batches[0][1])
    loss.backward()
    for scaled in (False, True):
        got_loss, grads = integer_gradients(integers, integers.tensors, trained, batches[0], scaled=scaled)
        assert got_loss == pytest.approx(float(loss.detach()), rel=1e-5)
        for one in trained:
            scale = integers.scales.get(one.name, torch.ones(()))
            real = reals[one.name].grad
            wanted = real / scale if scaled and one.name in integers.scales else real * scale
            torch.testing.assert_close(grads[one.name], wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_gradients_are_finite_differences_where_nothing_is_rounded(made: Made) -> None:
    """Of the last biases in integers; steps are wide, since rounding makes stairs of the loss."""
    model, integers, batches = made("resnet")
    name = "blocks.2.layers.1.conv.bias"
    (one,) = [t for t in resolve(Scheme(whole="all"), model) if t.name == name]
    _, grads = integer_gradients(integers, integers.tensors, [one], batches[0], scaled=False)
    # Far apart, so that the average over rounding is a slope.
    step = 40.0 / float(integers.scales[name].median()) * float(integers.grids[_last_grid(integers)].scale)
    direction = grads[name] / grads[name].norm()
    losses = []
    for sign in (1, -1):
        moved = {**integers.tensors, name: integers.tensors[name] + sign * step * direction}
        found, _ = integer_gradients(integers, moved, [one], batches[0], scaled=False)
        losses.append(found)
    slope = (losses[0] - losses[1]) / (2 * step)
    assert slope == pytest.approx(float(grads[name].norm()), rel=0.15)


def _last_grid(integers: IntegerModel) -> str:
    return list(integers.grids)[-1]


@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_scaling_restores_the_ratio_of_weight_to_gradient(made: Made, kind: str) -> None:
    """The paper's figure: log10 of norm over norm of every tensor; off by orders without scaling, on the line with."""
    model, integers, batches = made(kind)
    trained = [one for one in resolve(Scheme(whole="all"), model) if one.name in integers.scales]
    leaves = {one.name: model.tensors[one.name].detach().requires_grad_() for one in trained}
    loss = torch.nn.functional.cross_entropy(model(batches[0][0], {**model.tensors, **leaves}), batches[0][1])
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    floating = {n: float(torch.log10(leaves[n].detach().norm() / g.norm())) for n, g in grads.items() if g.norm() > 0}
    off = {}
    for scaled in (False, True):
        _, found = integer_gradients(integers, integers.tensors, trained, batches[0], scaled=scaled)
        ratios = {n: float(torch.log10(integers.tensors[n].norm() / g.norm())) for n, g in found.items()}
        off[scaled] = [abs(ratios[n] - floating[n]) for n in floating if np.isfinite(ratios[n])]
    assert np.median(off[False]) > 3
    assert np.median(off[True]) < 0.2
    assert max(off[True]) < min(off[False])


def test_scaled_training_follows_floating_point_and_unscaled_does_not(made: Made) -> None:
    model, integers, batches = made("resnet")
    trained = resolve(Scheme(whole="all"), model)
    how = Optimiser(kind="sgd", rate=0.1)
    with_it = run_integer(integers, trained, how, batches, 20)
    again = run_integer(integers, trained, how, batches, 20)
    without = run_integer(integers, trained, how, batches, 20, scaled=False)
    assert with_it.losses == again.losses
    assert with_it.losses[-1] < 0.75 * with_it.losses[0]
    assert with_it.losses[-1] == pytest.approx(run_eager(model, trained, how, batches, 20).losses[-1], abs=0.1)
    moved = {one.name for one in trained if not torch.equal(with_it.finals[one.name], integers.tensors[one.name])}
    assert len(moved) == len(trained)
    for one in trained:
        if one.name in integers.scales and len(one.shape) > 1:
            still = (without.finals[one.name].round() == integers.tensors[one.name]).double().mean()
            assert float(still) > 0.999, one.name


def test_drawn_fractions_store_integers_alone_and_still_learn(made: Made) -> None:
    model, integers, batches = made("resnet")
    trained = resolve(Scheme(whole="all"), model)
    how = Optimiser(kind="sgd", rate=0.1)
    course = run_integer(integers, trained, how, batches, 20, fraction="drawn", seed=4)
    assert course.losses == run_integer(integers, trained, how, batches, 20, fraction="drawn", seed=4).losses
    assert course.losses != run_integer(integers, trained, how, batches, 20, fraction="drawn", seed=5).losses
    for one in trained:
        if one.name in integers.scales:
            value = course.finals[one.name]
            assert torch.equal(value, value.round()), one.name
            assert value.ndim == 1 or float(value.abs().max()) <= 127, one.name
    assert course.losses[-1] < 0.75 * course.losses[0]


def test_only_chosen_channels_move(made: Made) -> None:
    model, integers, batches = made("resnet")
    scheme = Scheme(biases=8, whole=1, weights={"blocks.2.layers.0.conv": 0.25})
    trained = resolve(scheme, model)
    (one,) = [t for t in trained if t.channels]
    after = run_integer(integers, trained, Optimiser(rate=0.05), batches, 5).finals[one.name]
    moved = (after != integers.tensors[one.name]).any(dim=(0, 2, 3))
    assert set(torch.nonzero(moved).flatten().tolist()) == set(one.channels)


def test_a_task_is_learnt(tmp_path: Any) -> None:
    task = load_task(BuiltinTask(name="digits"), tmp_path)
    torch.manual_seed(0)
    module = build_subject(ResNet(depth=8, width=8), channels=1, classes=10).eval()
    args = (Scheme(whole="all"), Optimiser(kind="sgd", rate=0.5))
    course = train_task_in_integers(module, task, *args, batch=16, steps=80, seed=1)
    assert np.mean(course.losses[-10:]) < 0.85 * np.mean(course.losses[:5])
    inputs, labels = next(task.batches("validation", 300))
    with torch.no_grad():
        logits = course.model(tuple(torch.from_numpy(a) for a in inputs.values()), course.model.tensors)
    assert task.score(logits.numpy(), labels) > 0.25


def test_a_model_without_layers_of_integers_is_refused() -> None:
    single = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    model = read_model(single.eval(), {"input": torch.zeros(2, 3, 2, 2)})
    with pytest.raises(InputError, match="two layers"):
        quantise(model, [(torch.ones(2, 3, 2, 2),)])
    with pytest.raises(InputError, match="at least one batch"):
        quantise(model, [])


def test_a_rate_that_diverges_is_refused(made: Made) -> None:
    model, integers, batches = made("resnet")
    with pytest.raises(InputError, match="loss must stay finite"):
        run_integer(integers, resolve(Scheme(whole="all"), model), Optimiser(rate=1e38), batches, 20)
