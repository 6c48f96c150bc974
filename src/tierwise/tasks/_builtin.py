"""Built-in tasks: a data set, a subject and a training become a `Task`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tierwise._errors import SpecError
from tierwise.artifact import ImageInput, InputEncoding, TextInput
from tierwise.measure import Progress
from tierwise.tasks._datasets import DATASETS, Dataset
from tierwise.tasks._residual_files import check_start
from tierwise.tasks._source import Source
from tierwise.tasks._spec import Bert, BuiltinName, BuiltinTask, FastestDet, ResNet, Roberta, Subject, Training
from tierwise.tasks._splits import cut
from tierwise.tasks._start import open_start, started
from tierwise.tasks._subject import build_subject
from tierwise.tasks._task import LazySplits, Split, Task
from tierwise.tasks._tokenizer import train_tokenizer
from tierwise.tasks._tuning import training_threads

if TYPE_CHECKING:
    from torch import nn

__all__ = ["REVISION", "builtin_task", "resolved"]

REVISION = 1
"""Part of every fingerprint. Raise it whenever a change of this room's code changes data or weights."""

# The usual rate for residual networks (He et al. 2016), a little higher because the schedules are so short.
_SGD = Training(epochs=4, optimiser="sgd", learning_rate=0.2, weight_decay=5e-4, flip=True)
_DEFAULTS: dict[BuiltinName, tuple[Subject, Training]] = {
    "digits": (
        ResNet(depth=8, width=16),
        Training(epochs=20, batch=64, learning_rate=4e-3, shift_pixels=1, precision="float32"),
    ),
    "fashion-mnist": (ResNet(depth=8, width=16), _SGD),
    "cifar10-jpeg": (ResNet(depth=8, width=32), msgspec.structs.replace(_SGD, epochs=8, shift_pixels=2)),
    "tiny-imagenet-20": (ResNet(depth=8, width=32), msgspec.structs.replace(_SGD, epochs=12, shift_pixels=4)),
    # Without pretraining, thousands of sentences teach little: sst2 ends well above a constant answer, mrpc does not.
    "sst2": (Bert(), Training(epochs=4, batch=64, learning_rate=5e-4, weight_decay=0.1)),
    "mrpc": (Bert(max_length=128), Training(epochs=4, batch=64, learning_rate=5e-4, weight_decay=0.1)),
}


def resolved(spec: BuiltinTask) -> BuiltinTask:
    """The spec with the data set's defaults filled in.

    Raises:
        SpecError: A picture subject on text or a text subject on pictures, or a start that cannot be used.
        UnavailableError: The package of a start is not installed.
    """
    subject, training = _DEFAULTS[spec.name]
    spec = msgspec.structs.replace(spec, subject=spec.subject or subject, training=spec.training or training)
    image = DATASETS[spec.name].image
    text = image is None
    if text != isinstance(spec.subject, (Bert, Roberta)) or isinstance(spec.subject, FastestDet):
        families = "bert or roberta" if text else "resnet, resnext or full-size"
        raise SpecError(
            f"the subject of {spec.name} must be of the family {families}",
            got=type(spec.subject).__name__,
            where="task.subject.family",
        )
    if isinstance(spec.subject, (Bert, Roberta)):
        spec = msgspec.structs.replace(spec, subject=started(spec.subject))
    if isinstance(spec.subject, ResNet):
        check_start(spec.subject, channels=image.channels if image is not None else 0)
    if text and spec.input_pixels is not None:
        raise SpecError(f"{spec.name} has no pixels", got=spec.input_pixels, where="task.input_pixels")
    return spec


def builtin_task(spec: BuiltinTask, folder: Path, progress: Progress, threads: int | None) -> Task:
    """See `tierwise.tasks.load_task`."""
    spec = resolved(spec)
    dataset = DATASETS[spec.name]
    subject, training = spec.subject, spec.training
    if subject is None or training is None:  # `resolved` fills both; this tells the type checker
        raise SpecError("a resolved spec must have a subject and a training", where=spec.name)
    fingerprint = _fingerprint(spec, dataset)
    home = folder / "tasks" / fingerprint[:24]

    def load() -> dict[str, Split]:
        source = Source(folder, progress)
        with progress.step(f"read {spec.name}", None):
            official = dataset.read(source, dataset.files)
            return cut(
                official,
                seed=spec.seed,
                calibration_items=dataset.calibration_items,
                validation_items=dataset.validation_items,
                test_items=dataset.test_items,
                train_items=spec.train_items,
            )

    splits = LazySplits(load)
    files = {}
    if isinstance(subject, (Bert, Roberta)):
        files["tokenizer.json"] = _tokenizer(home / "tokenizer.json", subject, splits)

    def model(progress: Progress) -> nn.Module:
        from tierwise.tasks._training import trained

        return trained(
            lambda: _begun(subject, dataset, Source(folder, progress)),
            task,
            training,
            seed=spec.seed,
            folder=home,
            progress=progress,
            threads=threads or training_threads(task.encoding),
        )

    task = Task(
        name=spec.name,
        encoding=_encoding(spec, dataset),
        labels=dataset.labels,
        metric=dataset.metric,
        splits=splits,
        model=model,
        files=files,
        fingerprint=fingerprint,
        subject=subject,
        training=training,
    )
    return task


def _begun(subject: Subject, dataset: Dataset, source: Source) -> nn.Module:
    """The module that training begins with; torch comes when this is called."""
    from tierwise.tasks._residual_start import load_cifar_weights

    channels = dataset.image.channels if dataset.image is not None else 3
    module = build_subject(subject, classes=len(dataset.labels), channels=channels)
    if isinstance(subject, ResNet) and subject.start is not None:
        load_cifar_weights(module, subject.depth, source)
    return module


def _encoding(spec: BuiltinTask, dataset: Dataset) -> InputEncoding:
    image, subject = dataset.image, spec.subject
    if isinstance(subject, (Bert, Roberta)):
        type_ids = "token_type_ids" if isinstance(subject, Bert) else None
        return TextInput(max_length=subject.max_length, pair=dataset.pair, type_ids=type_ids)
    if image is None:
        raise SpecError("a picture subject must have pictures", where=spec.name)
    if spec.input_pixels is None:
        return image
    sized: ImageInput = msgspec.structs.replace(image, height=spec.input_pixels, width=spec.input_pixels)
    return sized


def _fingerprint(spec: BuiltinTask, dataset: Dataset) -> str:
    asked = msgspec.to_builtins(spec)
    # A subject's options that are not given decide nothing; so a new one does not rename what was trained before.
    asked["subject"] = {key: value for key, value in asked["subject"].items() if value is not None}
    text = isinstance(spec.subject, (Bert, Roberta))
    start = asked["subject"].pop("start", None) if text else None  # a folder may move; what is in it decides
    decisive = {
        "revision": REVISION,
        "spec": asked,
        "data": [dataset.revision, *(file.sha256 for file in dataset.files)],
        "cut": [dataset.calibration_items, dataset.validation_items, dataset.test_items],
        "encoding": msgspec.to_builtins(_encoding(spec, dataset)),
    }
    if text:
        decisive["padding"] = "left out of training"
    if start is not None:
        decisive["tokenizer"] = hashlib.sha256(open_start(start).tokenizer()).hexdigest()
    return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()


def _tokenizer(path: Path, subject: Bert | Roberta, splits: LazySplits) -> bytes:
    if subject.start is not None:
        return open_start(subject.start).tokenizer()
    # Kept, because what is learnt may differ between releases of the library, and weights belong to one tokeniser.
    if path.is_file():
        return path.read_bytes()
    content = train_tokenizer(subject, splits["train"].items)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_suffix(".part")
    stage.write_bytes(content)
    stage.replace(path)
    return content
