"""Bytes against accuracy: every bottleneck method beside JPEG and WebP of the input, on one task.

    python benchmarks/bottlenecks.py tiny-imagenet-20 OUT [--seeds 3] [--epochs-frac 0.5] [--only ghnd] [--save]

Each cell (method, setting, seed) is one file in OUT; what is there is not done again, and a cell that was killed goes
on from its last epoch. Every cell holds the validation split, by which settings are chosen, and the test split, which
is reported. Bytes are frames of single items; of pictures the whole file, and the file less that of a flat picture,
since of small ones most is header. ``--save`` writes all cells that are there and the environment to docs/results/,
without doing any; `bottlenecks_summary.py` makes tables of that file.

`bottleneck_methods.py` says what the methods are. ``--epochs-frac`` shortens all alike. ``whole`` is the model they
begin from.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from bottleneck_methods import PLANS, Plan, settings

from tierwise.artifact import Artifact, ImageInput
from tierwise.codecs import (
    Codec,
    PriorCodec,
    decode,
    decode_picture,
    encode,
    encode_picture,
    header_bytes,
    read_codec,
)
from tierwise.measure import Silent, read_environment
from tierwise.operators import Bottleneck, Identity, build
from tierwise.runtime import Executor
from tierwise.tasks import Task, load_task, score

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SPLITS = ("validation", "test")
QUALITIES = {"jpeg": (5, 10, 20, 50, 75, 95), "webp": (0, 5, 10, 20, 35, 50, 75, 90), "png": (0,)}
BATCH = 256
Cell = dict[str, Any]


def codec_of(artifact: Artifact) -> Codec:
    """The codec of an artifact's latent."""
    boundary = artifact.manifest.segments[0].boundary
    assert boundary is not None, "a bottleneck has a boundary"
    return read_codec(boundary.codec, artifact.path(boundary.tables).read_bytes())


def narrow_cell(task: Task, spec: Bottleneck, cache: Path) -> Cell:
    """Build one bottleneck and measure it."""
    artifact = build(task, (spec,), cache)
    head, tail, codec = Executor(artifact, (0, 1)), Executor(artifact, (1, 2)), codec_of(artifact)
    (name,) = [one.name for one in head.outputs]
    found: Cell = {}
    for split in SPLITS:
        items, frames, bits, answers = task.splits[split].items, list[bytes](), 0.0, []
        for start in range(0, len(items), BATCH):
            latents = head.run(task.tensors(items[start : start + BATCH]))[name]
            sent = [encode(codec, latents[i : i + 1]) for i in range(len(latents))]
            arrived = np.ascontiguousarray(np.concatenate([decode(codec, frame) for frame in sent]))
            answers.append(next(iter(tail.run({name: arrived}).values())))
            frames += sent
            bits += codec.tables.bits(latents) if isinstance(codec, PriorCodec) else 0.0
        found[split] = _judged(task, split, np.concatenate(answers))
        found[split]["bytes"] = float(np.mean([len(frame) for frame in frames]))
        if isinstance(codec, PriorCodec):
            found[split]["estimated_payload_bytes"] = bits / 8 / len(items)
    first = artifact.manifest.segments[0]
    assert first.boundary is not None, "a bottleneck has a boundary"
    provenance = artifact.manifest.provenance
    return {
        **found,
        "encoder_bits": first.boundary.encoder_bits,
        "encoder_macs": first.macs,
        "training_s": provenance.training_s,
        "spec": provenance.specs[-1],
    }


def whole_cell(task: Task, cache: Path) -> Cell:
    """The model that all of them begin from, on items as they are."""
    artifact = build(task, (Identity(),), cache)
    executor = Executor(artifact)
    assert isinstance(task.encoding, ImageInput), "the plans are of pictures"
    found: Cell = {}
    for split in SPLITS:
        items = task.splits[split].items
        found[split] = _judged(task, split, _answers(executor, task, items))
        found[split]["raw_bytes"] = task.encoding.height * task.encoding.width * task.encoding.channels
    return {**found, "macs": artifact.manifest.segments[0].macs}


def picture_cell(task: Task, kind: Any, quality: int, cache: Path) -> Cell:
    """The whole model on pictures that crossed as files."""
    executor = Executor(build(task, (Identity(),), cache))
    found: Cell = {}
    for split in SPLITS:
        pictures = [pixels(item) for item in task.splits[split].items]
        files = [encode_picture(picture, kind, quality) for picture in pictures]
        # A task of encoded pictures takes the file as it came; one of pixels is given them.
        encoded = isinstance(task.splits[split].items[0], bytes)
        arrived = files if encoded else [as_sent(decode_picture(file), pictures[0].shape[2]) for file in files]
        mean = float(np.mean([len(file) for file in files]))
        header = header_bytes(kind, quality, *pictures[0].shape)
        found[split] = _judged(task, split, _answers(executor, task, arrived))
        found[split] |= {"bytes": mean, "bytes_without_header": mean - header}
    return found


def _answers(executor: Executor, task: Task, items: Sequence[Any]) -> np.ndarray:
    parts = [executor.run(task.tensors(items[at : at + BATCH])) for at in range(0, len(items), BATCH)]
    return np.concatenate([next(iter(part.values())) for part in parts])


def _judged(task: Task, split: str, logits: np.ndarray) -> Cell:
    labels = task.splits[split].labels
    judged: Cell = {task.metric: float(score(task.metric, logits, labels))}
    if split == "test":
        # One bit an item, for paired tests between methods.
        judged["right"] = base64.b64encode(np.packbits(logits.argmax(1) == labels)).decode()
    return judged


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


def write(path: Path, content: str) -> None:
    """All of it or nothing."""
    stage = path.with_suffix(".part")
    stage.write_text(content, encoding="utf-8")
    stage.replace(path)


def save(name: str, cells: Path) -> Path:
    """All finished cells and the environment into one file, one cell a line."""
    every = [json.dumps(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(cells.glob("*.json"))]
    environment = json.dumps(msgspec.to_builtins(read_environment()))
    task = json.dumps(msgspec.to_builtins(PLANS[name].task))
    lines = ",\n".join(every)
    path = RESULTS / f"bottlenecks-{name}.json"
    write(path, f'{{"environment": {environment},\n"task": {task},\n"cells": [\n{lines}\n]}}\n')
    return path


def todo(plan: Plan, seeds: int, epochs_frac: float) -> Iterator[tuple[str, Callable[[Task, Path], Cell]]]:
    """Names of the cells and how each is done."""
    yield "whole", whole_cell
    for kind, qualities in QUALITIES.items():
        for quality in qualities:
            yield f"{kind} q{quality}", lambda task, out, kind=kind, q=quality: picture_cell(task, kind, q, out)
    # All seeds of what decides before anything else, so that what is there after some hours says something.
    for group, seed in product(settings(plan), range(seeds)):
        for method, setting, spec in group:
            seeded = msgspec.structs.replace(spec, seed=seed, epochs_frac=epochs_frac)
            yield (
                f"{method} {setting} seed {seed}",
                lambda task, out, seeded=seeded: narrow_cell(task, seeded, out),
            )


def main() -> None:
    """Do the cells that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=tuple(PLANS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs-frac", type=float, default=1.0)
    parser.add_argument("--only", default="", help="cells that begin so")
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    cells = asked.out / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    if asked.save:
        print(save(asked.task, cells))
        return
    plan = PLANS[asked.task]
    task = load_task(plan.task, asked.out / "task", Silent())
    for name, measured in todo(plan, asked.seeds, asked.epochs_frac):
        path = cells / f"{name.replace(' ', '_')}.json"
        if path.exists() or not name.startswith(asked.only):
            continue
        cell = {"cell": name, "epochs_frac": asked.epochs_frac, **measured(task, asked.out)}
        write(path, json.dumps(cell, indent=1))
        told = cell["validation"]
        print(f"{name}: {told.get('bytes', 0):.1f} B, {task.metric} {told[task.metric]:.4f} on validation", flush=True)


if __name__ == "__main__":
    main()
