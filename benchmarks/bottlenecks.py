"""Bytes against accuracy: every bottleneck method beside JPEG and WebP of the input, on one task.

    python benchmarks/bottlenecks.py tiny-imagenet-20 OUT [--seeds 3] [--epochs-frac 0.5] [--only ghnd] [--save]

Each cell (method, setting, seed) is one file in OUT; what is there is not done again, and a cell that was killed goes
on from its last epoch. Every cell holds the validation split, by which settings are chosen, and the test split, which
is reported. Bytes are frames of single items; of pictures the whole file, and the file less that of a flat picture,
since of small ones most is header. ``--save`` writes all cells that are there and the environment to docs/results/,
without doing any; `bottlenecks_summary.py` makes tables of that file.

Methods at equal bytes see the same pictures for the same number of epochs: ``hnd`` and ``ghnd`` 20 of features,
``bottlefit`` 10 and 10, ``joint`` 20 of labels (all of it trained, from the model's own tail), ``unfrozen`` BottleFit
with its encoder trained in the second stage too (by AdamW along a cosine); ``joint`` and ``bottlefit`` also with a
tenth of the labels and as many steps; what is called ``-long`` has four times the epochs. ``entropic-bottlefit`` is
``unfrozen`` with a learnt prior in place of whole numbers and a price of a bit in both stages;
``entropic-bottlefit-deep`` has the long training, two or four more layers in its encoder and all pictures;
``entropic-bottlefit-gentle`` has the same encoder, four fifths of its epochs for features and a second stage of small
steps.
``--epochs-frac`` shortens all alike. ``whole`` is the model they begin from.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

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
from tierwise.operators import Bottleneck, Identity, Lesson, build
from tierwise.runtime import Executor
from tierwise.tasks import BuiltinTask, ResNet, Task, Training, load_task, score

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SPLITS = ("validation", "test")
QUALITIES = {"jpeg": (5, 10, 20, 50, 75, 95), "webp": (0, 5, 10, 20, 35, 50, 75, 90), "png": (0,)}
FEW_LABELS = 0.1
BATCH = 256
Cell = dict[str, Any]
Named = tuple[str, str, Bottleneck]


@dataclass(frozen=True)
class Plan:
    """What is compared on one task.

    Attributes:
        task: The model that bottlenecks are made of; trained until it is worth compressing.
        cut: Between the parts that are replaced and kept.
        stride: Side of the picture over that of the latent.
        sizes: Channels of latents and bits of a value; at the first, which is tight, all methods are compared.
        betas: Weights of a bit for Entropic Student, on squared features.
        long_betas: The same with four times the epochs.
        own_betas: The same for ``entropic-bottlefit``.
        end_to_end_betas: The same on cross entropy, which is thousands of times smaller.
        train_frac: Share of the train split that bottlenecks see.
        deep_betas: Weights of a bit for ``entropic-bottlefit-deep``.
        deep_frac: Share of the train split that it sees.
        deep_layers: Further layers of its encoder.
        gentle_betas: Weights of a bit for ``entropic-bottlefit-gentle``.
    """

    task: BuiltinTask
    cut: str = "blocks.5"
    stride: int = 8
    sizes: tuple[tuple[int, int], ...] = ((3, 8), (16, 4), (48, 4))
    betas: tuple[float, ...] = (0.16, 0.64, 2.56)
    long_betas: tuple[float, ...] = (0.04,)
    own_betas: tuple[float, ...] = (0.04, 0.16, 0.01)
    end_to_end_betas: tuple[float, ...] = (2e-4, 1e-3)
    train_frac: float = 1.0
    deep_betas: tuple[float, ...] = (0.01, 0.04)
    deep_frac: float = 1.0
    deep_layers: int = 2
    gentle_betas: tuple[float, ...] = ()


_SGD = Training(epochs=30, batch=64, optimiser="sgd", learning_rate=0.1, weight_decay=5e-4, shift_pixels=4, flip=True)
PLANS = {
    "digits": Plan(BuiltinTask(name="digits"), cut="blocks.0", stride=2, sizes=((1, 8), (4, 4))),
    "tiny-imagenet-20": Plan(
        BuiltinTask(
            name="tiny-imagenet-20",
            subject=ResNet(depth=20, width=16, stem_stride=2, start="cifar10"),
            training=_SGD,
        )
    ),
    "fashion-mnist": Plan(
        BuiltinTask(
            name="fashion-mnist",
            subject=ResNet(depth=14, width=16),
            training=msgspec.structs.replace(_SGD, epochs=10, batch=128, learning_rate=0.2, shift_pixels=1),
        ),
        cut="blocks.3",
        stride=4,
        sizes=((1, 8), (5, 4)),
        # 20,000 pictures.
        train_frac=0.367,
        deep_betas=(0.02,),
    ),
    "cifar10-jpeg": Plan(
        BuiltinTask(
            name="cifar10-jpeg",
            subject=ResNet(depth=20, width=16, start="cifar10"),
            # The weights know these pictures before their JPEG files. A small rate keeps what they know by heart and
            # stays at 85 % on test.
            training=msgspec.structs.replace(_SGD, epochs=20, batch=128),
        ),
        stride=4,
        sizes=((2, 8), (5, 4), (16, 4)),
        train_frac=0.45,
        deep_betas=(0.01,),
        deep_layers=4,
        gentle_betas=(0.004,),
    ),
}

_FEATURES = Lesson(features="all", epochs=20, milestones=(0.25, 0.5, 0.75))
_FIRST = msgspec.structs.replace(_FEATURES, epochs=10, milestones=(0.5,))
_BY_LABELS = Lesson(
    trains=("encoder", "decoder", "tail"), cross_entropy=1.0, codec="round", epochs=20, schedule="cosine"
)
# The papers take a rate of 1e-3, for a hundred times as many steps.
_BEHIND = Lesson(
    trains=("decoder", "tail"),
    cross_entropy=0.5,
    soft=0.5,
    codec="round",
    epochs=10,
    optimiser="sgd",
    learning_rate=1e-2,
    weight_decay=5e-4,
    milestones=(0.5,),
)
_UNFROZEN = msgspec.structs.replace(
    _BEHIND,
    trains=("encoder", "decoder", "tail"),
    optimiser="adamw",
    learning_rate=1e-3,
    weight_decay=1e-4,
    schedule="cosine",
    milestones=(),
)
# Of a bit beside labels and answers, for each unit beside squared features.
_SECOND_PRICE = 3e-4 / 0.16
_WITH_RATE = msgspec.structs.replace(_FIRST, codec="noise", rate=1.0, milestones=(0.5, 0.8))
_ALL_WITH_RATE = msgspec.structs.replace(_BY_LABELS, codec="noise", rate=1.0)
_PRICED = (_WITH_RATE, msgspec.structs.replace(_UNFROZEN, codec="noise", rate=_SECOND_PRICE))
# Labels may take back what features taught: most of the time for those, then a second stage of small steps.
_GENTLE = (
    msgspec.structs.replace(_PRICED[0], epochs=48, schedule="cosine", learning_rate=2e-3, milestones=()),
    msgspec.structs.replace(_PRICED[1], epochs=12, learning_rate=2e-4),
)


def _longer(*lessons: Lesson) -> tuple[Lesson, ...]:
    """The lessons with four times the epochs, as the methods called ``-long`` have them."""
    return tuple(msgspec.structs.replace(one, epochs=4 * one.epochs) for one in lessons)


def settings(plan: Plan) -> Iterator[list[Named]]:
    """Groups of (method, setting, spec without a seed), what decides most first."""
    tight, *wide = plan.sizes
    own = _narrow(plan, *tight)
    yield _at(plan, tight, _METHODS)
    for size in wide:
        yield _at(plan, size, {"bottlefit": (_FIRST, _BEHIND), "unfrozen": (_FIRST, _UNFROZEN), "joint": (_BY_LABELS,)})
    yield [
        *_with_prior(plan, "entropic-student", plan.betas, (_WITH_RATE, _BEHIND)),
        *_with_prior(plan, "end-to-end", plan.end_to_end_betas, (_ALL_WITH_RATE,)),
    ]
    yield [
        *_with_prior(plan, "entropic-student", plan.long_betas, _longer(_WITH_RATE, _BEHIND), "-long"),
        *_with_prior(plan, "end-to-end", plan.end_to_end_betas, _longer(_ALL_WITH_RATE), "-long"),
    ]
    yield [*_priced(plan, "entropic-bottlefit", _PRICED), *_priced(plan, "entropic-bottlefit-long", _longer(*_PRICED))]
    deep = dataclasses.replace(plan, own_betas=plan.deep_betas, train_frac=plan.deep_frac)
    gentle = dataclasses.replace(deep, own_betas=plan.gentle_betas)
    yield [
        *_priced(deep, "entropic-bottlefit-deep", _longer(*_PRICED), depth=plan.deep_layers),
        *_priced(gentle, "entropic-bottlefit-gentle", _GENTLE, depth=plan.deep_layers),
    ]
    for size in wide:
        yield _at(plan, size, {"unfrozen-long": _longer(_FIRST, _UNFROZEN)})
    for method, lessons in (
        ("unfrozen", (_FIRST, _UNFROZEN)),
        ("joint-few-labels", (_few(_BY_LABELS),)),
        ("bottlefit-few-labels", (_FIRST, _few(_BEHIND))),
    ):
        yield [(method, size_name(*tight), _seeing(own, plan, lessons))]


_METHODS: dict[str, tuple[Lesson, ...]] = {
    "hnd": (msgspec.structs.replace(_FEATURES, features="cut"),),
    "ghnd": (_FEATURES,),
    "bottlefit": (_FIRST, _BEHIND),
    "joint": (_BY_LABELS,),
}


def size_name(channels: int, bits: int) -> str:
    """How cells call a size of the latent."""
    return f"{channels}ch" if bits == 8 else f"{channels}ch{bits}b"


def _narrow(plan: Plan, channels: int, bits: int) -> Bottleneck:
    return Bottleneck(preset="bottlefit", cut=plan.cut, stride=plan.stride, width=32, channels=channels, bits=bits)


def _at(plan: Plan, size: tuple[int, int], methods: dict[str, tuple[Lesson, ...]]) -> list[Named]:
    own, name = _narrow(plan, *size), size_name(*size)
    return [(method, name, _seeing(own, plan, lessons)) for method, lessons in methods.items()]


def _with_prior(
    plan: Plan, preset: Any, betas: tuple[float, ...], lessons: tuple[Lesson, ...], suffix: str = ""
) -> Iterator[Named]:
    for beta in betas:
        own = Bottleneck(preset=preset, cut=plan.cut, stride=plan.stride, channels=12, rate=beta)
        yield f"{preset}{suffix}", f"beta {beta:g}", _seeing(own, plan, lessons)


def _priced(plan: Plan, method: str, lessons: tuple[Lesson, ...], depth: int = 0) -> Iterator[Named]:
    for beta in plan.own_betas:
        own = Bottleneck(
            preset="entropic-bottlefit", cut=plan.cut, stride=plan.stride, width=32, depth=depth, channels=12, rate=beta
        )
        yield method, f"beta {beta:g}", _seeing(own, plan, lessons)


def _few(lesson: Lesson) -> Lesson:
    """With a tenth of the labels, for as many steps: what is compared is labels, not time."""
    return msgspec.structs.replace(lesson, train_frac=FEW_LABELS, epochs=round(lesson.epochs / FEW_LABELS))


def _seeing(spec: Bottleneck, plan: Plan, lessons: tuple[Lesson, ...]) -> Bottleneck:
    seen = [msgspec.structs.replace(one, train_frac=plan.train_frac * one.train_frac) for one in lessons]
    return msgspec.structs.replace(spec, lessons=tuple(seen))


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
