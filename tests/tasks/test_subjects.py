from __future__ import annotations

import re
from typing import Literal

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tierwise._errors import SpecError
from tierwise.tasks import Bert, DenseNet, FullSize, Inception, MobileNetV2, ResNet, ResNeXt, Roberta, Subject
from tierwise.tasks._encoder import build_encoder
from tierwise.tasks._subject import build_subject


def parameters(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


# Published sizes: the model zoo of torchvision for 1000 classes; table 6 of arXiv 1512.03385 and of arXiv 1611.05431
# give the rounded ones of the small networks.
@pytest.mark.parametrize(
    ("architecture", "published"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("resnext101_64x4d", 83_455_272),
    ],
)
def test_full_size_networks_have_the_published_size(architecture: str, published: int) -> None:
    with torch.device("meta"):
        net = build_subject(FullSize(architecture=architecture), classes=1000)  # type: ignore[arg-type]
        answer = net.eval()(torch.empty(1, 3, 224, 224))
    assert parameters(net) == published
    assert answer.shape == (1, 1000)


def test_other_families_have_the_published_size() -> None:
    with torch.device("meta"):
        assert parameters(build_subject(MobileNetV2(), classes=1000)) == 3_504_872
        assert parameters(build_subject(DenseNet(depth=100), classes=10)) == 769_162
        inception = build_subject(Inception(), classes=10)
    # Table 1 of arXiv 1611.03530 counts 1,649,402: its batch norms have no scale.
    scales = sum(module.weight.numel() for module in inception.modules() if isinstance(module, nn.BatchNorm2d))
    assert parameters(inception) - scales == 1_649_402


# Table 4 of arXiv 1801.04381 and the authors' list of checkpoints, at 224x224.
@pytest.mark.parametrize(("width_frac", "millions"), [(1.4, 582), (1.0, 300), (0.35, 59)])
def test_mobile_networks_have_the_published_arithmetic(width_frac: float, millions: float) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counted:
        build_subject(MobileNetV2(width_frac=width_frac), classes=1000).eval()(torch.empty(1, 3, 224, 224))
    assert counted.get_total_flops() / 2e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("reduction", [8, 16, 32])
def test_mobile_networks_reduce_as_asked(reduction: Literal[8, 16, 32]) -> None:
    seen: list[torch.Size] = []
    net = build_subject(MobileNetV2(width_frac=0.1, reduction=reduction), classes=3).eval()
    net.blocks.register_forward_hook(lambda *call: seen.append(call[2].shape))  # type: ignore[union-attr]
    net(torch.zeros(1, 3, 64, 96))
    assert seen[0][2:] == (64 // reduction, 96 // reduction)


@pytest.mark.parametrize(
    ("subject", "millions"),
    [
        (ResNet(depth=20), 0.27),
        (ResNet(depth=56), 0.86),
        (ResNet(depth=110), 1.73),
        (ResNeXt(), 34.4),
    ],
)
def test_small_networks_have_about_the_published_size(subject: Subject, millions: float) -> None:
    with torch.device("meta"):
        net = build_subject(subject, classes=10)
    assert parameters(net) == pytest.approx(1e6 * millions, rel=0.02)


@pytest.mark.parametrize(
    "subject",
    [
        ResNet(),
        ResNet(depth=14, width=5),
        ResNet(depth=11, block="bottleneck", width=8),
        ResNeXt(depth=11, width=4, cardinality=2, group_width=3),
        MobileNetV2(width_frac=0.1, reduction=8),
        DenseNet(depth=10, growth=3),
        Inception(width=7),
    ],
)
def test_small_networks_take_small_pictures(subject: Subject) -> None:
    net = build_subject(subject, classes=7, channels=1).eval()
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


def test_encoders_have_the_published_size() -> None:
    with torch.device("meta"):
        assert parameters(build_encoder(Bert(size="base", vocabulary=30_522))) == 109_482_240
        assert parameters(build_encoder(Roberta(size="base", vocabulary=50_265))) == 124_645_632


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (ResNet(depth=9), "must be 6n+2 .* but got 9. Take 8 or 14."),
        (ResNet(depth=3), "but got 3. Take 8 or 14."),
        (ResNet(depth=2), "but got 2. Take 8 or 14."),
        (ResNeXt(depth=30), "must be 9n+2 .* but got 30. Take 29 or 38."),
        (DenseNet(depth=41), "must be 6n+4 .* but got 41. Take 40 or 46."),
        (DenseNet(depth=4), "but got 4. Take 10 or 16."),
    ],
)
def test_a_depth_that_is_not_there(subject: Subject, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("+", r"\+")) as caught:
        build_subject(subject, classes=2)
    assert str(caught.value).startswith("task.subject.depth: ")


def test_padding_is_not_seen() -> None:
    torch.manual_seed(0)
    for subject in (Bert(), Roberta()):
        net = build_subject(subject, classes=2).eval()
        ids = torch.randint(5, 4000, (1, 12))
        mask = torch.tensor([[1] * 8 + [0] * 4])
        other = torch.where(mask == 1, ids, torch.randint(5, 4000, (1, 12)))
        rest = [torch.zeros_like(ids)] if isinstance(subject, Bert) else []
        with torch.inference_mode():
            short = net(ids[:, :8], mask[:, :8], *[tensor[:, :8] for tensor in rest])
            torch.testing.assert_close(net(ids, mask, *rest), short)
            torch.testing.assert_close(net(other, mask, *rest), short)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "subject",
    [Bert(), Roberta(), ResNet(depth=8, width=4), MobileNetV2(width_frac=0.1), DenseNet(depth=10), Inception(width=12)],
)
def test_subjects_export_with_a_free_batch(subject: Subject) -> None:
    torch.manual_seed(0)
    net = build_subject(subject, classes=3, channels=1).eval()
    if isinstance(subject, (Bert, Roberta)):
        inputs = [torch.randint(5, 4000, (2, 16)), torch.ones(2, 16, dtype=torch.int64)]
        inputs += [torch.zeros(2, 16, dtype=torch.int64)] if isinstance(subject, Bert) else []
    else:
        inputs = [torch.randn(2, 1, 8, 8)]
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    program = torch.onnx.export(net, tuple(inputs), dynamo=True, dynamic_shapes=free, verbose=False)
    assert program is not None
    operators = {node.op_type for node in program.model_proto.graph.node}
    assert not operators & {"Loop", "If", "Scan", "SequenceMap"}
    assert all(re.fullmatch(r"\w+", operator) for operator in operators)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(program.model_proto.SerializeToString(), options)
    three = [torch.cat([tensor, tensor[:1]]) for tensor in inputs]
    names = [value.name for value in session.get_inputs()]
    answer = session.run(None, dict(zip(names, (tensor.numpy() for tensor in three), strict=True)))[0]
    with torch.inference_mode():
        np.testing.assert_allclose(answer, net(*three).numpy(), atol=1e-5)


def test_untrained_deep_networks_answer_moderate_numbers() -> None:
    torch.manual_seed(0)
    net = build_subject(FullSize(architecture="resnext50_32x4d"), classes=10).eval()
    with torch.inference_mode():
        answer = net(torch.randn(2, 3, 64, 64))
    assert 1e-3 < answer.abs().max() < 1e2
    assert not torch.allclose(answer[0], answer[1])
