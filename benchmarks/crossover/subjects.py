"""The models of the crossover benchmark: one teacher whole, cut in two, and with learnt bottlenecks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise.artifact import Artifact, ImageInput, Preprocessor, open_artifact, read_files, to_payload, write_artifact
from tierwise.codecs import (
    Codec,
    decode,
    decode_picture,
    encode,
    encode_picture,
    read_codec,
)
from tierwise.measure import Silent
from tierwise.operators import Bottleneck, Identity, Lesson, Partition, build
from tierwise.runtime import Executor
from tierwise.tasks import BuiltinTask, Task, Training, load_task

# Latency does not depend on how well it is trained: what the curves of rate and accuracy are is another benchmark's.
TASK = BuiltinTask(
    name="tiny-imagenet-20",
    train_items=2000,
    training=Training(epochs=2, optimiser="sgd", learning_rate=0.2, weight_decay=5e-4, flip=True, shift_pixels=4),
)
_FEATURES = Lesson(features="cut", epochs=1, batch=32, train_frac=0.5)
_BITS = Lesson(features="cut", rate=0.64, codec="noise", epochs=1, batch=32, train_frac=0.5)
# Behind the second of three stages: 64 x 32 x 32.
CUT = "relu_4"
CHANNELS = (3, 6, 12)
QUALITY = 75
OPERATORS = {
    "whole": Identity(),
    "partition": Partition(cut=CUT),
    "partition-uint8": Partition(cut=CUT, boundary="uint8"),
    "bottleneck": Bottleneck(
        preset="ghnd", cut=CUT, channels=CHANNELS[-1], stride=8, prefixes=CHANNELS[:-1], lessons=(_FEATURES,)
    ),
    "entropic-student": Bottleneck(preset="entropic-student", cut=CUT, stride=8, lessons=(_BITS,)),
}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Strategy:
    """One way to an answer.

    Attributes:
        name: What the tables call it.
        artifact: What is deployed.
        where: On the device alone, cut between the two nodes, or all of it above.
        channels: Of the latent that are sent; None: all, or no latent.
        picture: The file that the device makes of a picture; None: it sends pixels or none.
    """

    name: str
    artifact: Artifact
    where: Literal["local", "split", "offload"]
    channels: int | None = None
    picture: Literal["jpeg", "webp"] | None = None

    def items(self, picture: Pixels) -> bytes | Pixels:
        """What the device hands on for a picture."""
        return picture if self.picture is None else encode_picture(picture, self.picture, QUALITY)

    def in_one_process(self, pictures: list[Pixels]) -> npt.NDArray[np.float32]:
        """The answers without nodes: preprocessing, segments, and the codec between them."""
        encoding, output = self.artifact.manifest.input, self.artifact.manifest.outputs[0].name
        payload = to_payload(encoding, [self.items(picture) for picture in pictures])
        tensors = Preprocessor(encoding, self.artifact.directory)(payload)
        if self.where != "split" or self.artifact.manifest.segments[0].boundary is None:
            return Executor(self.artifact, threads=1).run(tensors)[output]
        codec = codec_of(self.artifact)
        head, tail = (Executor(self.artifact, part, threads=1) for part in ((0, 1), (1, 2)))
        ((name, latents),) = head.run(tensors).items()
        arrived = [decode(codec, encode(codec, one[None], self.channels)) for one in latents]
        return tail.run({name: np.ascontiguousarray(np.concatenate(arrived))})[output]


def codec_of(artifact: Artifact) -> Codec:
    """The codec of an artifact's latent."""
    boundary = artifact.manifest.segments[0].boundary
    assert boundary is not None, "a bottleneck has a boundary"
    return read_codec(boundary.codec, artifact.path(boundary.tables).read_bytes())


def task_in(folder: Path) -> Task:
    """The task; its training is kept in ``folder``."""
    return load_task(TASK, folder / "task", Silent())


def pictures_of(task: Task, split: str) -> list[Pixels]:
    """A split as a camera would give it, in three colours; a few of the files hold grey pictures."""
    pixels = [decode_picture(item) for item in task.splits[split].items]
    return [np.stack([one] * 3, axis=2) if one.ndim == 2 else one for one in pixels]


def strategies(task: Task, folder: Path) -> Iterator[Strategy]:
    """All of them; models are built at the first call and kept."""
    built = {name: build(task, (operator,), folder / "cache") for name, operator in OPERATORS.items()}
    served = {name: fed_with(artifact, "uint8", folder / "served" / name) for name, artifact in built.items()}
    files = fed_with(built["whole"], "jpeg", folder / "served" / "whole-files")
    yield Strategy("local", served["whole"], "local")
    yield Strategy("raw", served["whole"], "offload")
    yield Strategy("jpeg", files, "offload", picture="jpeg")
    yield Strategy("webp", files, "offload", picture="webp")
    yield Strategy("partition", served["partition"], "split")
    yield Strategy("partition+uint8", served["partition-uint8"], "split")
    for channels in CHANNELS:
        yield Strategy(f"bottleneck-{channels}", served["bottleneck"], "split", channels=channels)
    yield Strategy("entropic-student", served["entropic-student"], "split")


def fed_with(artifact: Artifact, encoding: Literal["uint8", "jpeg"], directory: Path) -> Artifact:
    """The artifact for a device that hands on pixels, or files."""
    if directory.exists():
        return open_artifact(directory)
    manifest = artifact.manifest
    assert isinstance(manifest.input, ImageInput)
    changed = msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, encoding=encoding))
    directory.parent.mkdir(parents=True, exist_ok=True)
    files = {name: content for name, content in read_files(artifact).items() if name != "manifest.json"}
    return write_artifact(directory, changed, files)


def facts(strategy: Strategy) -> dict[str, Any]:
    """What a reader wants to know of its model."""
    manifest = strategy.artifact.manifest
    return {
        "where": strategy.where,
        "macs": [segment.macs for segment in manifest.segments],
        "notes": list(manifest.provenance.notes),
        "spec": list(manifest.provenance.specs),
    }
