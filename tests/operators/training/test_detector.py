"""Detectors through the operators that work on boxes."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from tierwise._errors import InputError
from tierwise.operators import Bottleneck, Lesson, StaticPTQ, _bottleneck, build, parse_chain
from tierwise.runtime import Executor
from tierwise.runtime._seal import seal_at
from tierwise.tasks import SPLITS, DetectionTask, FastestDet, Task, Training, Unlabelled, YoloFolders, load_task

pytest.importorskip("pycocotools")

HND = Bottleneck(
    preset="ghnd",
    channels=4,
    width=8,
    cut="backbone.stage2.2/Concat",
    items=4,
    lessons=(
        Lesson(features="cut", epochs=1, batch=8),
        Lesson(trains=("decoder", "tail"), cross_entropy=1.0, codec="round", epochs=1, batch=8),
    ),
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Pictures of one bright square each, and a detector that saw them a few times."""
    root = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    for split, count in zip(SPLITS, (16, 8, 4, 8), strict=True):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            x, y = generator.integers(0, 32, 2)
            pixels[y : y + 32, x : x + 32] = (250, 200, 40)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=92)
            (root / split / "images" / f"{i}.jpg").write_bytes(file.getvalue())
            line = f"0 {(x + 16) / 64} {(y + 16) / 64} {32 / 64} {32 / 64}"
            (root / split / "labels" / f"{i}.txt").write_text(line)
    data = YoloFolders(**{name: str(root / name) for name in SPLITS}, labels=("square",))
    training = Training(epochs=8, batch=8, learning_rate=4e-3, precision="float32")
    spec = DetectionTask(data=data, subject=FastestDet(width=16), training=training, pixels=64)
    return load_task(spec, root / "state", threads=1)


def test_static_quantisation_of_a_detector_leaves_nothing_behind(
    squares: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    plain = build(squares, parse_chain("identity"), tmp_path / "built")
    small = build(squares, (StaticPTQ(items=8, isa="x86"),), tmp_path / "built")
    assert list(here.iterdir()) == []
    coverage = small.manifest.coverage
    assert coverage is not None
    assert coverage.int8_macs_frac > 0.9
    inputs, _ = next(squares.batches("test", 8))
    whole, integer = (Executor(one, threads=1).run(inputs)["detections"] for one in (plain, small))
    best = [made[:, :, 4].max(axis=1) for made in (whole, integer)]
    assert best[0].min() > 0.1
    np.testing.assert_allclose(best[1], best[0], atol=0.1)


def test_a_bottleneck_sends_boxes_through_coded_latents(squares: Task, tmp_path: Path) -> None:
    artifact = build(squares, (HND,), tmp_path)
    head, _ = artifact.manifest.segments
    assert head.boundary is not None
    assert head.boundary.rates[-1].metric == squares.metric
    inputs, _ = next(squares.batches("test", 8))
    together = Executor(artifact, threads=1).run(inputs)["detections"]
    first, second = Executor(artifact, (0, 1), threads=1), Executor(artifact, (1, 2), threads=1)
    seal = seal_at(artifact, 1)
    assert seal is not None
    sent = seal.close(first.run(inputs))
    np.testing.assert_array_equal(second.run(seal.open(sent))["detections"], together)


def test_lessons_without_labels_see_further_pictures(
    squares: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more").mkdir()
    for i in range(5):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (80, 64, 3), np.uint8)).save(file, "PNG")
        (tmp_path / "more" / f"{i}.png").write_bytes(file.getvalue())
    seen = []
    teach = _bottleneck.fine_tune

    def counted(module, task, spec, **rest):
        seen.append(len(task.splits["train"]))
        return teach(module, task, spec, **rest)

    monkeypatch.setattr(_bottleneck, "fine_tune", counted)
    more = Unlabelled(folder=str(tmp_path / "more"))
    artifact = build(squares, (msgspec.structs.replace(HND, unlabelled=more),), tmp_path / "built")
    assert seen == [21, 16], "features of all, boxes of the labelled ones"
    told = artifact.manifest.provenance.specs[-1]["unlabelled"]
    assert isinstance(told, dict)
    assert len(told["sha256"]) == 64
    assert "unlabelled" not in msgspec.to_builtins(HND), "where it is not asked for, it is no part of a name"


def test_soft_answers_of_a_detector_are_refused(squares: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="soft answers"):
        build(squares, (Bottleneck(preset="bottlefit"),), tmp_path)
    with pytest.raises(InputError, match="must know boxes"):
        build(squares, parse_chain("distill"), tmp_path)
