"""Bytes against mean average precision: a detector's bottlenecks beside JPEG and WebP of its input, and its filter.

    python benchmarks/detectors.py OUT [--seeds 3] [--only ghnd]
    python benchmarks/detectors.py OUT --save

The detector is FastestDet, begun with its makers' COCO weights and fine-tuned on `traffic-vehicles`, whose splits share
no video. Each cell (method, setting, seed) is one file in OUT; what is there is not done again, and a cell that was
killed goes on from its last epoch. Every cell holds the validation split, by which settings are chosen, and the test
split, which is reported, with the difference to the whole detector and its interval (paired bootstrap over pictures).
Bytes are frames of single pictures, or whole files. ``--save`` writes the cells that are there, and the environment,
to docs/results/.

All bottlenecks stand at the end of the backbone's first stage. HND and GHND take equal epochs and steps. Where the
papers' second stage has soft answers, here it has the detector's own loss of boxes, which has no such form.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from PIL import Image

from tierwise.artifact import Artifact
from tierwise.codecs import (
    Codec,
    decode,
    decode_picture,
    encode,
    encode_picture,
    read_codec,
)
from tierwise.measure import Silent, read_environment
from tierwise.operators import Bottleneck, Filter, Identity, Lesson, build
from tierwise.operators._filtering import area_under_curve
from tierwise.operators._views import seen, tiles, tiles_hold
from tierwise.runtime import Executor
from tierwise.tasks import (
    BoxScores,
    DetectionTask,
    FastestDet,
    Task,
    Training,
    Unlabelled,
    VehicleBoxes,
    item_digest,
    load_task,
    map_difference,
)

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SPLITS = ("validation", "test")
QUALITIES = {"jpeg": (5, 20, 50, 75, 95), "webp": (0, 10, 35, 75)}
BATCH = 8
CUT = "backbone.stage2"
TEACHER = Training(
    epochs=60, batch=8, learning_rate=3e-4, weight_decay=0.01, shift_pixels=32, flip=True, precision="float32"
)
FILTERS = (
    *((frac, "fields") for frac in (0.25, 0.6, 0.9)),
    *((frac, "peaks") for frac in (0.25, 0.6, 0.75, 0.93, 0.97)),
)
"""Share of the arithmetic before the filter, and how features are gathered."""

_FEATURES = Lesson(features="all", epochs=30, batch=4, milestones=(0.5, 0.8))
_AT_THE_CUT = msgspec.structs.replace(_FEATURES, features="cut")
_BEHIND = Lesson(
    trains=("decoder", "tail"), cross_entropy=1.0, codec="round", epochs=15, batch=8, learning_rate=3e-4,
    weight_decay=0.01, schedule="cosine",
)  # fmt: skip
_LONGER = 3.5
"""Times the epochs of what is called long: frames alone then take as many steps as with the further pictures."""
_RATED = msgspec.structs.replace(_FEATURES, rate=0.08, codec="noise", learning_rate=2e-3, milestones=(0.6, 0.85))
"""Entropic Student's first lesson, with the noise of rounding and the price of a bit."""


def _longer(lesson: Lesson) -> Lesson:
    return msgspec.structs.replace(lesson, epochs=round(lesson.epochs * _LONGER))


def settings(street: Path) -> Iterator[tuple[str, Bottleneck]]:
    """(name, spec without a seed).

    ``front``: the device keeps the model's own front and narrows what that gives, in whole numbers of 4 bits that the
    lessons see. The others have an encoder of their own in its place. ``street``: lessons of features see the 277
    pictures in that folder beside the 113 frames, in as many epochs. ``long``: more epochs of features.
    """
    more = Unlabelled(folder=str(street))
    own = Bottleneck(preset="ghnd", cut=CUT, channels=3, width=16)
    kept = Bottleneck(preset="ghnd", cut=CUT, family="autoencoder", channels=6, bits=4)
    for name, common, codec in (("", own, "none"), ("front ", kept, "round")):
        features, at_the_cut = (msgspec.structs.replace(one, codec=codec) for one in (_FEATURES, _AT_THE_CUT))
        methods = {
            "hnd": (at_the_cut,),
            "ghnd": (features,),
            "bottlefit": (features, _BEHIND),
            "hnd and boxes": (at_the_cut, _BEHIND),
        }
        for method, lessons in methods.items():
            spec = msgspec.structs.replace(common, lessons=lessons)
            longer = msgspec.structs.replace(spec, lessons=(_longer(lessons[0]), *lessons[1:]))
            for length, one in (("", spec), ("long ", longer)):
                yield f"{length}{name}{method} {spec.channels}ch", one
                yield f"street {length}{name}{method} {spec.channels}ch", msgspec.structs.replace(one, unlabelled=more)
    lessons = (_RATED, msgspec.structs.replace(_BEHIND, epochs=10))
    student = Bottleneck(preset="entropic-student", cut=CUT, channels=6, lessons=lessons)
    yield "entropic-student", student
    kept = msgspec.structs.replace(student, family="autoencoder", channels=12)
    yield "front entropic-student", kept
    for rate in (0.02, 0.005):
        priced = msgspec.structs.replace(_RATED, rate=rate)
        for length, lesson in (("", priced), ("long ", _longer(priced))):
            cheaper = msgspec.structs.replace(kept, lessons=(lesson, _BEHIND))
            yield f"{length}front entropic-student rate {rate}", cheaper
            more_seen = msgspec.structs.replace(cheaper, unlabelled=more)
            yield f"street {length}front entropic-student rate {rate}", more_seen


def scores(found: np.ndarray, task: Task, split: str, whole: np.ndarray | None) -> dict[str, Any]:
    """MAP and AP50 of answers, and their difference to those of the whole detector."""
    own = BoxScores(found, task.splits[split].labels)
    value: dict[str, Any] = dict(zip(("map", "map50"), own.over(), strict=True))
    if whole is not None and split == "test":
        over = map_difference(own, BoxScores(whole, task.splits[split].labels), draws=400)
        value["to_whole"] = msgspec.to_builtins(over)
    return value


def answers(executor: Executor, task: Task, items: list[Any]) -> np.ndarray:
    """Boxes [n, most, 6]."""
    made = [executor.run(task.tensors(items[at : at + BATCH]))["detections"] for at in range(0, len(items), BATCH)]
    return np.concatenate(made)


def codec_of(artifact: Artifact) -> Codec:
    """The codec of an artifact's latent."""
    boundary = artifact.manifest.segments[0].boundary
    assert boundary is not None, "a bottleneck has a boundary"
    return read_codec(boundary.codec, artifact.path(boundary.tables).read_bytes())


def narrow_cell(task: Task, spec: Bottleneck, cache: Path, whole: dict[str, np.ndarray]) -> dict[str, Any]:
    """Build one bottleneck and measure it through its codec."""
    artifact = build(task, (spec,), cache)
    head, tail = (Executor(artifact, part, threads=1) for part in ((0, 1), (1, 2)))
    codec, (name,) = codec_of(artifact), [one.name for one in head.outputs]
    found: dict[str, Any] = {}
    for split in SPLITS:
        items, sizes, made = list(task.splits[split].items), list[int](), []
        for item in items:
            frame = encode(codec, head.run(task.tensors([item]))[name])
            sizes.append(len(frame))
            made.append(tail.run({name: np.ascontiguousarray(decode(codec, frame))})["detections"])
        found[split] = {"bytes": float(np.mean(sizes)), **scores(np.concatenate(made), task, split, whole[split])}
    first, provenance = artifact.manifest.segments[0], artifact.manifest.provenance
    assert first.boundary is not None
    told = msgspec.to_builtins(provenance.specs[-1])
    if "unlabelled" in told:  # a place on this machine says nothing to others; the hash stays
        told["unlabelled"]["folder"] = Path(told["unlabelled"]["folder"]).name
    return {
        **found,
        "encoder_bits": first.boundary.encoder_bits,
        "encoder_macs": first.macs,
        "training_s": provenance.training_s,
        "notes": list(provenance.notes),
        "spec": told,
    }


def picture_cell(
    task: Task, kind: Any, quality: int, side: int | None, executor: Executor, whole: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The whole detector on pictures that crossed as files, in their own size or fitted into ``side`` pixels."""
    found: dict[str, Any] = {}
    for split in SPLITS:
        files = [encode_picture(_fitted(item, side), kind, quality) for item in task.splits[split].items]
        made = answers(executor, task, files)
        found[split] = {"bytes": float(np.mean([len(file) for file in files]))}
        found[split] |= scores(made, task, split, whole[split])
    return found


def _fitted(item: Any, side: int | None) -> np.ndarray:
    picture = Image.fromarray(decode_picture(item) if isinstance(item, bytes) else np.asarray(item))
    if side is not None and max(picture.size) > side:
        frac = side / max(picture.size)
        size = (round(picture.width * frac), round(picture.height * frac))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture)


def filter_cell(task: Task, spec: Filter, cache: Path) -> dict[str, Any]:
    """A filter on tiles of frames: a tile is empty, or holds half a box or more; both come from the same frames."""
    artifact = build(task, (spec,), cache)
    first = artifact.manifest.segments[0]
    assert first.exit is not None
    told = first.exit.filtering
    assert told is not None
    model = onnx.load(artifact.path(first.file))
    found: dict[str, Any] = {}
    for split in SPLITS:
        confidence, held = seen(model, task, split, first.exit.confidence, ())
        confidence = confidence.reshape(-1)
        dropped = confidence >= first.exit.threshold
        found[split] = {
            "roc_auc": area_under_curve(confidence, held),
            "tiles": {"with": int(held.sum()), "without": int((~held).sum())},
            "empty_dropped_frac": float(dropped[~held].mean()),
            "recall": float(1 - dropped[held].mean()),
        }
    return {
        **found,
        "parameters": told.parameters,
        "macs": told.macs,
        "macs_before": first.macs - told.macs,
        "frames_dropped_frac": first.exit.left_frac,
        "notes": list(artifact.manifest.provenance.notes),
        "spec": artifact.manifest.provenance.specs[-1],
    }


def own_score_cell(task: Task, executor: Executor) -> dict[str, Any]:
    """What the filters' tiles are told apart by when all of the detector runs: by its best box."""
    found: dict[str, Any] = {}
    for split in SPLITS:
        held, clear = tiles_hold(task.splits[split].labels)
        best = []
        for item in task.splits[split].items:
            parts = {name: tiles(array) for name, array in task.tensors([item]).items()}
            best.append(executor.run(parts)["detections"][:, :, 4].max(1))
        nothing = -np.concatenate(best)[clear]
        found[split] = {"roc_auc": area_under_curve(nothing, held[clear])}
    return found


def street_pictures(folder: Path, state: Path) -> Path:
    """The training pictures of `emergency-vehicles`, as files without their labels."""
    spec = DetectionTask(data=VehicleBoxes(name="emergency-vehicles", keep_suspects=True), subject=FastestDet())
    folder.mkdir(exist_ok=True)
    for item in load_task(spec, state, Silent(), threads=1).splits["train"].items:
        assert isinstance(item, bytes)
        (folder / f"{item_digest(item)[:16]}.jpg").write_bytes(item)
    return folder


def write(path: Path, cell: dict[str, Any]) -> None:
    """All of it or nothing."""
    stage = path.with_suffix(".part")
    stage.write_text(json.dumps(cell, indent=1), encoding="utf-8")
    stage.replace(path)


def todo(seeds: int, street: Path) -> Iterator[tuple[str, Any]]:
    """(cell, what it is made of), in the order in which they are done."""
    yield "whole", None
    for kind, qualities in QUALITIES.items():
        for quality in qualities:
            for side in (None, 352):
                yield f"{kind} q{quality} {side or 'own'}", (kind, quality, side)
    yield "filter own score", "own score"
    for frac, pool in FILTERS:
        for seed in range(seeds):
            yield f"filter {frac} {pool} seed {seed}", Filter(head_frac=frac, pool=pool, seed=seed)
    for seed in range(seeds):
        for name, spec in settings(street):
            yield f"{name} seed {seed}", msgspec.structs.replace(spec, seed=seed)


def save(cells: Path) -> None:
    """All cells that are there, with the environment, to docs/results/."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(cells.glob("*.json"))]
    write(RESULTS / "detectors.json", {"environment": msgspec.to_builtins(read_environment()), "cells": every})


def main() -> None:
    """Do the cells that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="cells that begin so")
    parser.add_argument("--save", action="store_true", help="write down the cells that are there")
    asked = parser.parse_args()
    cells = asked.out / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    if asked.save:
        save(cells)
        return
    data = VehicleBoxes(name="traffic-vehicles")
    spec = DetectionTask(data=data, subject=FastestDet(start="coco"), training=TEACHER)
    task = load_task(spec, asked.out / "task", Silent(), threads=1)
    executor = Executor(build(task, (Identity(),), asked.out), threads=1)
    whole = {split: answers(executor, task, list(task.splits[split].items)) for split in SPLITS}
    for name, what in todo(asked.seeds, street_pictures(asked.out / "street", asked.out / "task")):
        path = cells / f"{name.replace(' ', '_')}.json"
        if path.exists() or not name.startswith(asked.only):
            continue
        if what is None:
            cell = {split: scores(whole[split], task, split, None) for split in SPLITS}
            for split in SPLITS:  # the files as they are in the set
                cell[split]["bytes"] = float(np.mean([len(item) for item in task.splits[split].items]))
        elif what == "own score":
            cell = own_score_cell(task, executor)
        elif isinstance(what, Filter):
            cell = filter_cell(task, what, asked.out)
        elif isinstance(what, Bottleneck):
            cell = narrow_cell(task, what, asked.out, whole)
        else:
            cell = picture_cell(task, *what, executor, whole)
        write(path, {"cell": name, **cell})
        told = {key: value for key, value in cell["validation"].items() if isinstance(value, float)}
        print(f"{name}: on validation {told}", flush=True)


if __name__ == "__main__":
    main()
