from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tierwise._errors import InputError
from tierwise.capture import export, run


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


class Exotic(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(torch.linalg.eigvals(x).real)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1).sum(1) + x.flatten(1).sum(1)


class Pair(nn.Module):
    def forward(self, first, second):
        return first - second, first + second


def test_batch_is_free_and_modes_are_restored():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)).train()
    model = export(net, {"x": torch.randn(2, 4)}, ["y"])
    assert net.training
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(run([model], {"x": x})["y"], net.eval()(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_inputs_by_name_or_by_order():
    a, b = torch.ones(2, 3), torch.full((2, 3), 2.0)
    swapped = export(Pair(), {"second": b, "first": a}, ["minus", "plus"])
    ordered = export(Pair(), {"left": a, "right": b}, ["minus", "plus"])
    assert run([swapped], {"first": a.numpy(), "second": b.numpy()})["minus"][0, 0] == -1
    assert run([ordered], {"left": a.numpy(), "right": b.numpy()})["minus"][0, 0] == -1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Branching, r"test_export\.py:\d+ `if x\.sum\(\) > 0:`: the model must export"),
        (Exotic, r"test_export\.py:\d+ `return torch\.special.*operator aten\.linalg_eig has no ONNX form"),
        (FixedBatch, r"FixedBatch: .*its code works for a batch of 2 only"),
    ],
)
def test_what_cannot_be_exported_is_named(module, text, capfd):
    with pytest.raises(InputError, match=text):
        export(module(), {"x": torch.randn(2, 4, 4)}, ["y"])
    assert capfd.readouterr().err == ""


def test_example_of_one_item_is_refused():
    with pytest.raises(InputError, match="batch of at least 2"):
        export(nn.Linear(4, 4), {"x": torch.randn(1, 4)}, ["y"])
