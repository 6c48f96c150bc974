"""Small models of the three kinds that a step is compiled for, and nodes that train them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from tierwise.artifact import Artifact, ImageInput, Optimiser, TensorInput, TensorSpec, write_artifact
from tierwise.tasks import Bert, Llama, MobileNetV2, ResNet, build_decoder, build_subject
from tierwise.training import IGNORED, Scheme
from tierwise.training.compiler import Lesson, compile_training

CLASSES = 5
Arrays = Mapping[str, npt.NDArray[Any]]


def resnet() -> torch.nn.Module:
    return build_subject(ResNet(depth=8, width=4), channels=3, classes=CLASSES)


def mobilenet() -> torch.nn.Module:
    return build_subject(MobileNetV2(width_frac=0.35), channels=3, classes=CLASSES)


def bert() -> torch.nn.Module:
    subject = Bert(layers=2, hidden=32, head_width=16, vocabulary=50, dropout_frac=0.1)
    return build_subject(subject, channels=1, classes=CLASSES)


DECODER = Llama(layers=2, hidden=32, heads=4, kv_heads=2, inner=48, vocabulary=50, length=12)


def decoder() -> torch.nn.Module:
    return build_decoder(DECODER)


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "bert": bert,
    "decoder": decoder,
}


def batches(kind: str, size: int) -> list[tuple[Arrays, npt.NDArray[np.int64]]]:
    rng = np.random.default_rng(3)
    made = []
    for _ in range(2):
        if kind == "bert":
            mask = np.ones((size, 12), np.int64)
            mask[0, 8:] = 0
            ids = rng.integers(1, 50, (size, 12))
            inputs: Arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        else:
            side = 32 if kind == "mobilenet" else 13
            inputs = {"input": rng.standard_normal((size, 3, side, side)).astype(np.float32)}
        labels = rng.integers(0, CLASSES, size)
        if kind == "decoder":
            rows = rng.integers(0, DECODER.vocabulary, (size, DECODER.length + 1))
            inputs, labels = {"tokens": rows[:, :-1].copy()}, rows[:, 1:].copy()
            labels[0, -3:] = IGNORED
        made.append((inputs, labels))
    return made


def seeded(kind: str) -> torch.nn.Module:
    """The model with statistics of norms that are not those of a new one."""
    torch.manual_seed(1)
    module = MODELS[kind]()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, std=0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    return module.eval()


def lesson(kind: str, size: int = 2) -> Lesson:
    made = batches(kind, size)
    tensors = tuple(
        TensorSpec(name=n, dtype="FP32" if a.dtype == np.float32 else "INT64", shape=(-1, *a.shape[1:]))
        for n, a in made[0][0].items()
    )
    labels = () if kind == "decoder" else tuple(f"c{i}" for i in range(CLASSES))
    return Lesson(kind, TensorInput(tensors=tensors), labels, {}, made, kind)


@final
class Kit:
    """What tests of this room make models from (modules of tests cannot import this one)."""

    batches = staticmethod(batches)
    lesson = staticmethod(lesson)
    seeded = staticmethod(seeded)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A residual net of which the last three layers, and a quarter of a fourth, are trained by Adam."""
    scheme = Scheme(whole=2, biases=6, weights={"blocks.1.layers.1.conv": 0.25})
    folder = tmp_path_factory.mktemp("small") / "artifact"
    return compile_training(seeded("resnet"), lesson("resnet"), scheme, Optimiser(kind="adam", rate=1e-3), folder)


@pytest.fixture
def start(running_nodes: Callable[[], AbstractContextManager[Callable[..., Any]]]) -> Iterator[Callable[..., Any]]:
    """Starts nodes with options of theirs, beside the tier; they end with the test."""
    with running_nodes() as start:
        yield functools.partial(start, "node")


@pytest.fixture(scope="module")
def painter(small: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`small`, of PNG pictures."""
    encoding = ImageInput(encoding="png", height=13, width=13, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    manifest = msgspec.structs.replace(small.manifest, input=encoding)
    files = {entry.name: small.path(entry.name).read_bytes() for entry in small.manifest.files}
    return write_artifact(tmp_path_factory.mktemp("painter") / "artifact", manifest, files)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of albums; in one of them 11 pictures of the classes c0 to c4."""
    root = tmp_path_factory.mktemp("albums")
    for i in range(11):
        folder = root / "today" / f"c{i % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (13, 13, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return root
