from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from tierwise._config import loads_toml
from tierwise._errors import SpecError
from tierwise.artifact import ImageInput, TextInput
from tierwise.measure import Silent, usable_cpus
from tierwise.tasks import (
    Bert,
    BuiltinTask,
    FullSize,
    LazySplits,
    ResNet,
    Split,
    Task,
    TaskSpec,
    Training,
    build_subject,
    load_task,
    score,
)
from tierwise.tasks._checkpoint import load_checkpoint, load_weights
from tierwise.tasks._spec import BuiltinName
from tierwise.tasks._training import _augmented, _padding_mask, _without_padding, trained
from tierwise.tasks._tuning import training_threads


def accuracy(task: Task, net: nn.Module, split: str) -> float:
    answers, labels = [], []
    with torch.inference_mode():
        for tensors, truth in task.batches(split, 500):
            answers.append(net(*(torch.from_numpy(array) for array in tensors.values())).numpy())
            labels.append(truth)
    return score(task.metric, np.concatenate(answers), np.concatenate(labels))


def test_digits_are_learnt_in_seconds_and_kept(tmp_path: Path) -> None:
    task = load_task(BuiltinTask(name="digits"), tmp_path)
    assert task.model is not None
    net = task.model(Silent())
    assert not net.training
    assert accuracy(task, net, "validation") >= 0.97
    assert accuracy(task, net, "test") >= 0.96
    started = time.monotonic()
    again = load_task(BuiltinTask(name="digits"), tmp_path).model
    assert again is not None
    for name, tensor in again(Silent()).state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])
    assert time.monotonic() - started < 5
    files = sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file())
    assert files == [".safetensors"]


def a_task(tmp_path: Path, opened: list[str]) -> Task:
    """Two classes of noisy 8x8 pictures; notes which splits are opened."""
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = generator.integers(0, 2, count)
        pictures = generator.integers(0, 120, (count, 8, 8, 1)) + 80 * labels[:, None, None, None]
        return Split(list(pictures.astype(np.uint8)), labels)

    splits = {"train": split(130), "calibration": split(4), "validation": split(40), "test": split(40)}

    class Noted(Mapping[str, Split]):
        def __getitem__(self, name: str) -> Split:
            opened.append(name)
            return splits[name]

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(splits)

        def __len__(self) -> int:
            return 4

    return Task(
        name="noise",
        encoding=ImageInput(encoding="uint8", height=8, width=8, channels=1, mean=(0.4,), std=(0.3,)),
        labels=("dark", "light"),
        splits=Noted(),
        model=None,
    )


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_stopped_training_reaches_the_same_weights(tmp_path: Path, optimiser: str) -> None:
    opened: list[str] = []
    task = a_task(tmp_path, opened)
    spec = Training(epochs=4, batch=32, optimiser=optimiser, learning_rate=0.01, shift_pixels=1, flip=True)  # type: ignore[arg-type]

    def run(folder: Path, stop_after: int | None = None) -> nn.Module:
        return trained(
            lambda: nn.Sequential(build_subject(ResNet(width=4), classes=2, channels=1), nn.Dropout(0.1)),
            task,
            spec,
            seed=3,
            folder=folder,
            progress=Silent(),
            threads=1,
            stop_after=stop_after,
        )

    whole = run(tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", stop_after=1)
    state = load_checkpoint(tmp_path / "cut" / "training.safetensors")
    assert state is not None
    assert state.epoch == 3
    resumed = run(tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["weights.safetensors"]
    kept, cut = (load_weights(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert kept is not None
    assert cut is not None
    assert kept[1]["history"] == cut[1]["history"]
    assert len(kept[1]["history"]) == 4
    assert 0.5 <= kept[1]["floor"] <= max(kept[1]["history"])
    assert set(opened) == {"train", "validation"}


def test_a_damaged_state_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    path.write_bytes(b"\x80\x04damaged")
    assert load_checkpoint(path) is None


def test_training_leaves_torch_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    training = Training(epochs=1)
    trained(
        lambda: build_subject(ResNet(width=4), classes=2, channels=1),
        a_task(tmp_path, []),
        training,
        seed=0,
        folder=tmp_path,
        progress=Silent(),
        threads=2,
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


def test_pictures_move_and_mirror() -> None:
    picture = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(64, 2, 1, 1)
    moved = _augmented(picture, Training(epochs=1, shift_pixels=1, flip=True), np.random.default_rng(0))
    assert moved.shape == picture.shape
    assert torch.equal(moved[:, 0], moved[:, 1])
    seen = {tuple(sample.flatten().tolist()) for sample in moved[:, 0]}
    plain = tuple(picture[0, 0].flatten().tolist())
    assert plain in seen
    assert tuple(picture[0, 0].flip(1).flatten().tolist()) in seen
    assert (0.0, 0.0, 1.0, 3.0, 3.0, 4.0, 6.0, 6.0, 7.0) in seen
    assert 9 < len(seen) <= 18


def test_no_epochs_leave_seeded_weights(tmp_path: Path) -> None:
    untrained = Training(epochs=0)
    spec = BuiltinTask(name="digits", subject=FullSize(), training=untrained, input_pixels=64)
    task = load_task(spec, tmp_path)
    assert task.example()["input"].shape == (2, 1, 64, 64)
    assert task.model is not None
    one = task.model(Silent()).state_dict()
    two = load_task(spec, tmp_path / "elsewhere").model(Silent()).state_dict()  # type: ignore[misc]
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.data
def test_fashion_mnist_learns_from_a_few_hundred(data_root: Path, tmp_path: Path) -> None:
    spec = BuiltinTask(name="fashion-mnist", train_items=600, training=Training(epochs=1, batch=20, learning_rate=4e-3))
    task = load_task(spec, tmp_path)
    assert len(task.splits["train"]) == 600
    assert task.model is not None
    net = task.model(Silent())
    logits = net(torch.from_numpy(task.tensors(task.splits["test"].items[:300])["input"])).detach().numpy()
    assert score("accuracy", logits, task.splits["test"].labels[:300]) > 0.3


@pytest.mark.data
def test_text_is_trained_too(data_root: Path, tmp_path: Path) -> None:
    spec = BuiltinTask(
        name="sst2", train_items=200, subject=Bert(vocabulary=400, max_length=16), training=Training(epochs=1, batch=50)
    )
    task = load_task(spec, tmp_path)
    assert task.model is not None
    assert task.model(Silent())(*task.example().values()).shape == (2, 2)


def test_threads_are_no_more_than_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    large = ImageInput(encoding="uint8", height=64, width=64, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    small = msgspec.structs.replace(large, height=8, width=8)
    for allowed, threads in (
        ("1", 1),
        ("100", int(usable_cpus())),
        ("", int(usable_cpus())),
        ("0", int(usable_cpus())),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", allowed)
        assert training_threads(large) == max(1, threads)
        assert training_threads(small) == 1


def test_padding_that_all_rows_have_is_not_trained_on() -> None:
    text, picture = (
        TextInput(max_length=16),
        ImageInput(encoding="png", height=8, width=8, channels=1, mean=(0,), std=(1,)),
    )
    net = build_subject(Bert(), classes=2)
    assert _padding_mask(net, text) == "attention_mask"
    # A model of somebody else may be made for one length.
    assert _padding_mask(nn.Sequential(net), text) is None
    assert _padding_mask(build_subject(ResNet(), classes=2), picture) is None
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    batch = {"input_ids": torch.arange(10).view(2, 5), "attention_mask": mask}
    assert {name: tensor.tolist() for name, tensor in _without_padding(batch, "attention_mask").items()} == {
        "input_ids": [[0, 1, 2], [5, 6, 7]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
    }
    assert _without_padding(batch, None) is batch


def test_fingerprint_holds_what_decides(tmp_path: Path) -> None:
    def fingerprint(spec: BuiltinTask) -> str:
        return load_task(spec, tmp_path).fingerprint

    plain = BuiltinTask(name="digits")
    explicit = msgspec.structs.replace(plain, subject=ResNet(depth=8, width=16))
    assert fingerprint(plain) == fingerprint(explicit)
    others = [
        msgspec.structs.replace(plain, seed=1),
        msgspec.structs.replace(plain, subject=ResNet(depth=14)),
        msgspec.structs.replace(plain, training=Training(epochs=1)),
        msgspec.structs.replace(plain, train_items=10),
        msgspec.structs.replace(plain, input_pixels=16),
    ]
    assert len({fingerprint(spec) for spec in [plain, *others]}) == 6
    assert isinstance(load_task(plain, tmp_path).splits, LazySplits)


@pytest.mark.parametrize("name", get_args(BuiltinName))
def test_defaults_fit_their_data_set(name: BuiltinName) -> None:
    from tierwise.tasks._builtin import resolved

    spec = resolved(BuiltinTask(name=name))
    with torch.device("meta"):
        build_subject(spec.subject, classes=2)  # type: ignore[arg-type]


def test_wrong_subjects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"the subject of digits must be of the family resnet, .* but got Bert"):
        load_task(BuiltinTask(name="digits", subject=Bert()), tmp_path)
    with pytest.raises(SpecError, match="the subject of sst2 must be of the family bert or roberta"):
        load_task(BuiltinTask(name="sst2", subject=ResNet()), tmp_path)
    with pytest.raises(SpecError, match="sst2 has no pixels"):
        load_task(BuiltinTask(name="sst2", input_pixels=8), tmp_path)


def test_specs_come_from_toml() -> None:
    text = """
kind = "builtin"
name = "fashion-mnist"
seed = 7
[subject]
family = "resnext"
depth = 11
cardinality = 4
[training]
epochs = 3
"""
    spec = loads_toml(text, TaskSpec, where="study.toml")  # type: ignore[arg-type, var-annotated]
    assert isinstance(spec, BuiltinTask)
    assert spec.training == Training(epochs=3)
    with pytest.raises(SpecError, match=r"unknown field `depht` - at `\$\.subject`"):
        loads_toml(text.replace("depth", "depht"), TaskSpec, where="study.toml")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"Invalid enum value 'mnist' - at `\$\.name`"):
        loads_toml(text.replace("fashion-mnist", "mnist"), TaskSpec, where="study.toml")  # type: ignore[arg-type]


def test_narrow_strided_shortcuts_are_not_trained_channels_last() -> None:
    from tierwise.tasks._training import _lay_out, _layout, forward

    narrow, wide = (build_subject(ResNet(width=width), classes=2, channels=1) for width in (8, 16))
    assert _layout(narrow) == torch.contiguous_format
    assert _layout(wide) == torch.channels_last
    # 1x1 weights and pictures of one channel fit both layouts; their strides must not pass for the other one.
    narrow.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _lay_out(narrow)
    weight = narrow.get_parameter("blocks.1.shortcut.conv.weight")
    assert weight.stride() == (8, 1, 1, 1)
    seen: list[torch.Tensor] = []
    narrow.get_submodule("stem.conv").register_forward_hook(lambda _m, inputs, output: seen.extend((*inputs, output)))
    forward(narrow, {"input": torch.zeros(3, 8, 8, 1).permute(0, 3, 1, 2)})
    assert [tensor.stride() for tensor in seen] == [(64, 64, 8, 1), (512, 64, 8, 1)]
