from __future__ import annotations

import torch

from tierwise.operators._folding import folded
from tierwise.operators._surgery import Anatomy
from tierwise.tasks import ResNet
from tierwise.tasks._subject import build_subject

PICTURES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _net() -> torch.nn.Module:
    torch.manual_seed(0)
    net = build_subject(ResNet(depth=8, width=8), classes=5)
    net.train()
    for _ in range(3):  # statistics and gains that differ from where they begin
        net(2 * PICTURES + 1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()


def test_a_folded_part_gives_the_same_answers_and_gradients_without_norms() -> None:
    part = Anatomy(_net(), {"input": PICTURES}).tail(None, ("relu_2",))
    swift = folded(part)
    assert not any("batch_norm" in str(node.target) for node in swift.graph.nodes)
    found = []
    for one in (part.eval().requires_grad_(False), swift):
        given = PICTURES.clone().requires_grad_(True)
        answers, watched = one(given)
        (answers.square().sum() + watched.sum()).backward()
        found.append((answers.detach(), watched.detach(), given.grad))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_folding_leaves_the_part_itself_alone() -> None:
    part = Anatomy(_net(), {"input": PICTURES}).head("relu_2")
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    text = str(part.graph)
    folded(part)
    assert str(part.graph) == text
    assert all(torch.equal(tensor, before[name]) for name, tensor in part.state_dict().items())


def test_what_is_no_graph_comes_back_as_a_frozen_copy() -> None:
    layer = torch.nn.Linear(2, 2)
    swift = folded(layer)
    assert swift is not layer
    assert not any(parameter.requires_grad for parameter in swift.parameters())
    assert all(parameter.requires_grad for parameter in layer.parameters())
