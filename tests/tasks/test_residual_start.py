from __future__ import annotations

import pytest
import torch

from tierwise._errors import SpecError, UnavailableError
from tierwise.measure import Silent
from tierwise.tasks import BuiltinTask, ResNet, load_task
from tierwise.tasks._builtin import resolved
from tierwise.tasks._residual_start import load_cifar_weights
from tierwise.tasks._source import Source
from tierwise.tasks._subject import build_subject

STARTED = ResNet(depth=20, width=16, start="cifar10")


def _right(net: torch.nn.Module, tmp_path) -> float:
    """Share of every 20th test picture answered rightly, given the mean and deviation that the weights know."""
    task = load_task(BuiltinTask(name="cifar10-jpeg"), tmp_path, Silent())
    test = task.splits["test"]
    split = test.take(range(0, len(test), 20))
    ours = [torch.tensor(values)[:, None, None] for values in (task.encoding.mean, task.encoding.std)]
    theirs = [torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    (given,) = (torch.from_numpy(array) for array in task.tensors(split.items).values())
    with torch.inference_mode():
        answers = net.eval()((given * ours[1] + ours[0] - theirs[0]) / theirs[1])
    return float((answers.argmax(1).numpy() == split.labels).mean())


def test_published_weights_answer_as_published(data_root, tmp_path) -> None:
    net = build_subject(STARTED, classes=10)
    load_cifar_weights(net, 20, Source(tmp_path, Silent(), data_root))
    # 81.0 % on all test pictures, which are JPEG; 91.8 % without.
    assert _right(net, tmp_path) == pytest.approx(0.81, abs=0.05)


def test_other_classes_keep_their_own_classifier(data_root, tmp_path) -> None:
    torch.manual_seed(0)
    net = build_subject(STARTED, classes=20)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_cifar_weights(net, 20, Source(tmp_path, Silent(), data_root))
    after = net.state_dict()
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert not torch.equal(before["stem.conv.weight"], after["stem.conv.weight"])


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("cifar10-jpeg", ResNet(depth=14, width=16, start="cifar10")),
        ("cifar10-jpeg", ResNet(depth=20, width=32, start="cifar10")),
        ("fashion-mnist", STARTED),
    ],
)
def test_shapes_without_published_weights_are_refused(name, subject) -> None:
    with pytest.raises(SpecError, match="leave `start` out"):
        resolved(BuiltinTask(name=name, subject=subject))


def test_a_missing_file_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tierwise.tasks._source.urllib.request.urlopen", _offline)
    with pytest.raises(UnavailableError, match="weights_cifar_resnets/pretrained_models/resnet20-12fca82f"):
        load_cifar_weights(build_subject(STARTED, classes=10), 20, Source(tmp_path, Silent(), tmp_path / "none"))


def _offline(*_args, **_named):
    raise OSError("no network")


def test_a_strided_stem_halves_the_features_and_old_tasks_keep_their_names(tmp_path) -> None:
    pictures = torch.zeros(1, 3, 64, 64)
    sides = [build_subject(ResNet(stem_stride=stride), classes=2).stem(pictures).shape[2] for stride in (None, 1, 2)]
    assert sides == [64, 64, 32]
    # What is not given decides nothing, so what was trained before is found again.
    task = load_task(BuiltinTask(name="digits"), tmp_path, Silent())
    assert task.fingerprint == "16a4e13d45d45ba1c0247d587d8c4eabcf76ce77011b33ec46952560c583da7a"
