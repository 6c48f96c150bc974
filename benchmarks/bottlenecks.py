"""Bytes against accuracy: every bottleneck preset beside JPEG and WebP of the input, on one task.

    python benchmarks/bottlenecks.py fashion-mnist OUT [--seeds 3] [--epochs-frac 1.0] [--only ghnd] [--train-items N]
    python benchmarks/bottlenecks.py fashion-mnist OUT --save

Each cell (method, setting, seed) is one file in OUT; what is there is not done again, and a cell that was killed goes
on from its last epoch. Every cell holds the validation split, by which settings are chosen, and the test split, which
is reported. Bytes are frames of single items; of pictures the whole file, and the file less that of a flat picture,
since of small ones most is header. ``--save`` writes all cells and the environment to docs/results/.

Beside the presets: ``joint`` trains everything by cross entropy from the model's tail (what BottleFit is better than on
ImageNet, and was not in a small pilot), ``unfrozen`` is BottleFit with its encoder trained in the second stage too, and
both and BottleFit come with a tenth of the labels, which the first stage of BottleFit does not need.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tierwise.artifact import Artifact
from tierwise.codecs import (
    AffineCodec,
    Codec,
    PriorCodec,
    RawCodec,
    decode,
    decode_picture,
    encode,
    encode_picture,
    header_bytes,
    read_affine,
    read_prior,
)
from tierwise.measure import Silent, read_environment
from tierwise.operators import Bottleneck, Identity, Lesson, build
from tierwise.runtime import Executor
from tierwise.tasks import BuiltinTask, Task, load_task, score

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SPLITS = ("validation", "test")
CHANNELS = (1, 2, 4, 8)
BETAS = (0.02, 0.08, 0.32, 1.28, 5.12)
QUALITIES = {"jpeg": (5, 10, 20, 35, 50, 75, 95), "webp": (0, 5, 10, 20, 35, 50, 75, 90)}
FEW_LABELS = 0.1
BATCH = 256

_FEATURES = Lesson(features="all", epochs=10, milestones=(0.5,))
_BY_LABELS = Lesson(trains=("encoder", "decoder", "tail"), cross_entropy=1.0, codec="round", epochs=20)
_BEHIND = Lesson(
    trains=("decoder", "tail"),
    cross_entropy=0.5,
    soft=0.5,
    codec="round",
    epochs=10,
    optimiser="sgd",
    weight_decay=5e-4,
    milestones=(0.5,),
)


def settings() -> Iterator[tuple[str, str, Bottleneck]]:
    """(method, setting, spec without a seed)."""
    for channels in CHANNELS:
        name = f"{channels}ch"
        for preset in ("hnd", "ghnd", "bottlefit", "autoencoder"):
            yield preset, name, Bottleneck(preset=preset, channels=channels)  # type: ignore[arg-type]
        yield "joint", name, Bottleneck(preset="bottlefit", channels=channels, lessons=(_BY_LABELS,))
        unfrozen = msgspec.structs.replace(_BEHIND, trains=("encoder", "decoder", "tail"))
        yield "unfrozen", name, Bottleneck(preset="bottlefit", channels=channels, lessons=(_FEATURES, unfrozen))
        few = [
            # As many steps as with all labels: what is compared is labels, not time.
            msgspec.structs.replace(one, train_frac=FEW_LABELS, epochs=round(one.epochs / FEW_LABELS))
            for one in (_BY_LABELS, _BEHIND)
        ]
        yield "joint-few-labels", name, Bottleneck(preset="bottlefit", channels=channels, lessons=(few[0],))
        lessons = (_FEATURES, few[1])
        yield "bottlefit-few-labels", name, Bottleneck(preset="bottlefit", channels=channels, lessons=lessons)
    for beta in BETAS:
        yield "entropic-student", f"beta {beta:g}", Bottleneck(preset="entropic-student", rate=beta)
        # Cross entropy is of the order of 1 where squared features are of the order of 1,000.
        yield "end-to-end", f"beta {beta / 1000:g}", Bottleneck(preset="end-to-end", rate=beta / 1000)


def codec_of(artifact: Artifact) -> Codec:
    """The codec of an artifact's latent."""
    boundary = artifact.manifest.segments[0].boundary
    assert boundary is not None, "a bottleneck has a boundary"
    content = artifact.path(boundary.tables).read_bytes()
    if boundary.codec == "prior":
        return PriorCodec(read_prior(content))
    return AffineCodec(read_affine(content)) if boundary.codec == "affine" else RawCodec()


def narrow_cell(task: Task, spec: Bottleneck, cache: Path) -> dict[str, Any]:
    """Build one bottleneck and measure it."""
    artifact = build(task, (spec,), cache)
    head, tail, codec = Executor(artifact, (0, 1)), Executor(artifact, (1, 2)), codec_of(artifact)
    (name,) = [one.name for one in head.outputs]
    found: dict[str, Any] = {}
    for split in SPLITS:
        items, sizes, answers = task.splits[split].items, list[int](), []
        for start in range(0, len(items), BATCH):
            latents = head.run(task.tensors(items[start : start + BATCH]))[name]
            frames = [encode(codec, latents[i : i + 1]) for i in range(len(latents))]
            sizes += map(len, frames)
            arrived = np.ascontiguousarray(np.concatenate([decode(codec, frame) for frame in frames]))
            answers.append(next(iter(tail.run({name: arrived}).values())))
        logits = np.concatenate(answers)
        found[split] = {
            "bytes": float(np.mean(sizes)),
            task.metric: float(score(task.metric, logits, task.splits[split].labels)),
        }
        if split == "test":
            right = logits.argmax(1) == task.splits[split].labels
            # For paired tests between methods.
            found[split]["wrong"] = np.flatnonzero(~right).tolist()
    first = artifact.manifest.segments[0]
    assert first.boundary is not None
    provenance = artifact.manifest.provenance
    return {
        **found,
        "encoder_bits": first.boundary.encoder_bits,
        "encoder_macs": first.macs,
        "training_s": provenance.training_s,
        "notes": list(provenance.notes),
        "spec": provenance.specs[-1],
    }


def picture_cell(task: Task, kind: Any, quality: int, cache: Path) -> dict[str, Any]:
    """The whole model on pictures that crossed as files."""
    executor = Executor(build(task, (Identity(),), cache))
    found: dict[str, Any] = {}
    for split in SPLITS:
        pictures = [pixels(item) for item in task.splits[split].items]
        files = [encode_picture(picture, kind, quality) for picture in pictures]
        arrived = [
            as_sent(decode_picture(file), picture.shape[2]) for file, picture in zip(files, pictures, strict=True)
        ]
        answers = [
            next(iter(executor.run(task.tensors(arrived[at : at + BATCH])).values()))
            for at in range(0, len(arrived), BATCH)
        ]
        header = header_bytes(kind, quality, *pictures[0].shape)
        mean = float(np.mean([len(file) for file in files]))
        value = float(score(task.metric, np.concatenate(answers), task.splits[split].labels))
        found[split] = {"bytes": mean, "bytes_without_header": mean - header, task.metric: value}
    return found


def pixels(item: Any) -> np.ndarray:
    """An item as [h, w, c]."""
    if isinstance(item, bytes):
        picture = decode_picture(item)
        return picture if picture.ndim == 3 else picture[:, :, None]
    return np.asarray(item)


def as_sent(picture: np.ndarray, channels: int) -> np.ndarray:
    """[h, w, channels]; WebP knows no grey and gives back three channels."""
    if picture.ndim == 2:
        return picture[:, :, None]
    if picture.shape[2] == channels:
        return picture
    return np.rint(picture.mean(2, keepdims=True)).astype(np.uint8)


def write(path: Path, cell: dict[str, Any]) -> None:
    """All of it or nothing."""
    stage = path.with_suffix(".part")
    stage.write_text(json.dumps(cell, indent=1), encoding="utf-8")
    stage.replace(path)


def main() -> None:
    """Do the cells that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("digits", "fashion-mnist", "cifar10-jpeg", "tiny-imagenet-20"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs-frac", type=float, default=1.0)
    parser.add_argument("--only", default="", help="methods that begin so")
    parser.add_argument("--train-items", type=int)
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    cells = asked.out / "cells"
    cells.mkdir(exist_ok=True)
    task = load_task(BuiltinTask(name=asked.task, train_items=asked.train_items), asked.out / "task", Silent())
    todo: list[tuple[str, Any]] = [
        (f"{kind} q{quality}", (kind, quality)) for kind, qualities in QUALITIES.items() for quality in qualities
    ]
    for seed in range(asked.seeds):
        for method, setting, spec in settings():
            spec = msgspec.structs.replace(spec, seed=seed, epochs_frac=asked.epochs_frac)
            todo.append((f"{method} {setting} seed {seed}", spec))
    for name, what in todo:
        path = cells / f"{name.replace(' ', '_')}.json"
        if path.exists() or not name.startswith(asked.only):
            continue
        is_picture = isinstance(what, tuple)
        cell = picture_cell(task, *what, asked.out) if is_picture else narrow_cell(task, what, asked.out)
        write(path, {"cell": name, **cell})
        told = cell["validation"]
        print(f"{name}: {told['bytes']:.1f} B, {task.metric} {told[task.metric]:.4f} on validation", flush=True)
    if asked.save:
        every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(cells.glob("*.json"))]
        environment = msgspec.to_builtins(read_environment())
        write(RESULTS / f"bottlenecks-{asked.task}.json", {"environment": environment, "cells": every})


if __name__ == "__main__":
    main()
