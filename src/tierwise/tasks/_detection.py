"""Detection tasks: pictures with boxes and a detector become a `Task`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from tierwise._errors import InputError, SpecError
from tierwise.artifact import Detections, ImageInput
from tierwise.measure import Progress
from tierwise.tasks._box_files import BoxedPicture, boxed_split, read_coco, read_yolo
from tierwise.tasks._source import Source
from tierwise.tasks._spec import CocoFiles, DetectionTask, FastestDet, Training, VehicleBoxes, YoloFolders
from tierwise.tasks._splits import check_disjoint
from tierwise.tasks._task import SPLITS, LazySplits, Split, Task, item_digest
from tierwise.tasks._tuning import training_threads
from tierwise.tasks._vehicles import VEHICLES, read_vehicles, vehicle_files

if TYPE_CHECKING:
    from torch import nn

__all__ = ["detection_task"]

_REVISION = 1
"""Part of every fingerprint. Raise it whenever a change of this room's code changes data or weights of detectors."""

_TRAINING = Training(
    epochs=40,
    batch=8,
    optimiser="adamw",
    learning_rate=1e-3,
    weight_decay=0.01,
    shift_pixels=32,
    flip=True,
    precision="float32",
)

Read = Callable[[], dict[str, list[BoxedPicture]]]


def detection_task(spec: DetectionTask, folder: Path, progress: Progress, threads: int | None) -> Task:
    """See `tierwise.tasks.load_task`."""
    read, labels, data = _opened(spec, folder, progress)
    labels = spec.labels or (("object",) if spec.one_class else labels)
    _check_keys(spec)
    if spec.onnx is not None:
        return _brought(spec, Path(spec.onnx), read, labels, data)
    training = spec.training or _TRAINING
    encoding = _encoding(spec, "input", spec.pixels, spec.pixels)
    boxes = Detections(tensor="cells", layout="grid", classes=tuple(range(len(labels))))
    fingerprint = _fingerprint(spec, encoding, boxes, labels, [msgspec.to_builtins(training)], data)
    home = folder / "tasks" / fingerprint[:24]

    def model(progress: Progress) -> nn.Module:
        from tierwise.tasks._training import trained

        return trained(
            lambda: _untrained(spec.subject, len(labels), Source(folder, progress)),
            task,
            training,
            seed=spec.seed,
            folder=home,
            progress=progress,
            threads=threads or training_threads(encoding),
        )

    task = Task(
        name=_name(spec),
        encoding=encoding,
        labels=labels,
        metric=spec.metric,
        splits=_splits(spec, read, encoding, len(labels)),
        model=model,
        outputs=("cells",),
        fingerprint=fingerprint,
        subject=spec.subject,
        training=training,
        boxes=boxes,
    )
    return task


def _check_keys(spec: DetectionTask) -> None:
    """Keys of a detector of ours and of one that comes as ONNX exclude each other."""
    ours = spec.training is not None or spec.subject != FastestDet()
    if spec.onnx is not None and ours:
        raise SpecError(
            "subject and training must be left out where the detector comes as ONNX",
            got="onnx with subject or training",
            where="task",
        )
    if spec.onnx is None and spec.boxes is not None:
        raise SpecError(
            "boxes must be given with onnx only: our own detector's answer is known", got="boxes", where="task.boxes"
        )
    if spec.boxes is not None and min(spec.boxes.classes) < -1:
        raise SpecError(
            "its classes must be those of the task, or -1", got=min(spec.boxes.classes), where="task.boxes.classes"
        )


def _untrained(subject: FastestDet, classes: int, source: Source) -> nn.Module:
    from tierwise.tasks._fastestdet import FastestDetNet, load_coco_weights

    net = FastestDetNet(subject, classes=classes)
    if subject.start is not None:
        load_coco_weights(net, source)
    return net


def _brought(spec: DetectionTask, path: Path, read: Read, labels: tuple[str, ...], data: list[str]) -> Task:
    """A detector that comes as ONNX."""
    if spec.boxes is None:
        raise SpecError(
            "a detector that comes as ONNX needs to be told how its output becomes boxes",
            got="none",
            where="task.boxes",
            fix='Give boxes = {tensor = "...", layout = "grid" or "rows", classes = [...]}',
        )
    if max(spec.boxes.classes) >= len(labels):
        raise SpecError(
            f"its classes must be those of the task, 0..{len(labels) - 1}, or -1",
            got=max(spec.boxes.classes),
            where="task.boxes.classes",
        )
    name, height, width, outputs = _signature(path, spec)
    encoding = _encoding(spec, name, height, width)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return Task(
        name=_name(spec),
        encoding=encoding,
        labels=labels,
        metric=spec.metric,
        splits=_splits(spec, read, encoding, len(labels)),
        model=None,
        onnx=path,
        outputs=outputs,
        fingerprint=_fingerprint(spec, encoding, spec.boxes, labels, [content], data),
        boxes=spec.boxes,
    )


def _signature(path: Path, spec: DetectionTask) -> tuple[str, int, int, tuple[str, ...]]:
    """Name, height and width of the one input, and the names of the outputs, of which the first has the boxes."""
    import onnx

    if not path.is_file():
        raise SpecError("the ONNX file must exist", got=repr(str(path)), where="task.onnx")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # whatever protobuf raises for another file
        raise SpecError(f"the file must be an ONNX model ({error})", where=str(path)) from error
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    outputs = tuple(value.name for value in graph.output)
    axes = [axis.dim_value for axis in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    if len(axes) != 4 or axes[1] != 3:
        raise SpecError(
            "a detector must have one input of pictures, [n, 3, height, width]",
            got=[value.name for value in inputs] if len(inputs) != 1 else axes,
            where=str(path),
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        raise SpecError(
            "a detector's pictures must be FP32",
            got=onnx.TensorProto.DataType.Name(kind),
            where=str(path),
            fix="Export it with float32 inputs",
        )
    if spec.boxes is not None and (not outputs or outputs[0] != spec.boxes.tensor):
        raise SpecError(
            "its first output must be the tensor of its boxes", got=list(outputs), where="task.boxes.tensor"
        )
    return inputs[0].name, axes[2] or spec.pixels, axes[3] or spec.pixels, outputs


def _encoding(spec: DetectionTask, tensor: str, height: int, width: int) -> ImageInput:
    return ImageInput(
        encoding="jpeg",
        height=height,
        width=width,
        channels=3,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        tensor=tensor,
        fit=spec.fit,
        order=spec.order,
    )


def _name(spec: DetectionTask) -> str:
    return spec.data.name if isinstance(spec.data, VehicleBoxes) else "detection"


def _opened(spec: DetectionTask, folder: Path, progress: Progress) -> tuple[Read, tuple[str, ...], list[str]]:
    """How the pictures are read, their class names, and what names their content."""
    data = spec.data
    match data:
        case VehicleBoxes():
            source = Source(folder, progress)
            hashes = [file.sha256 for file in vehicle_files(data.name)]
            return (
                lambda: read_vehicles(data.name, source, keep_suspects=data.keep_suspects),
                VEHICLES[data.name],
                hashes,
            )
        case YoloFolders():
            folders = {name: Path(getattr(data, name)) for name in SPLITS}
            read = {name: read_yolo(path, len(data.labels)) for name, path in folders.items()}
            return (lambda: read), data.labels, _digests(read)
        case CocoFiles():
            found = {name: read_coco(Path(getattr(data, name)), Path(data.pictures)) for name in SPLITS}
            names = {classes for _, classes in found.values()}
            if len(names) != 1:
                raise InputError("all files must name the same classes", got=sorted(names), where="task.data")
            pictures = {name: split for name, (split, _) in found.items()}
            return (lambda: pictures), names.pop(), _digests(pictures)


def _digests(pictures: Mapping[str, list[BoxedPicture]]) -> list[str]:
    return [
        hashlib.sha256("".join(item_digest(one.content) for one in pictures[name]).encode()).hexdigest()
        # How many each picture has tells whose they are.
        + hashlib.sha256(
            b"".join(b"%d:%b" % (len(one.boxes), one.boxes.tobytes()) for one in pictures[name])
        ).hexdigest()
        for name in SPLITS
    ]


def _splits(spec: DetectionTask, read: Read, encoding: ImageInput, classes: int) -> LazySplits:
    def load() -> dict[str, Split]:
        pictures = read()
        splits = {name: boxed_split(pictures[name], encoding) for name in SPLITS}
        for name, split in splits.items():
            if len(split) == 0:
                raise InputError("every split must hold a picture", got="none", where=name)
            # Calibration looks at pictures only.
            if name != "calibration" and not ((split.labels[:, :, 4] >= 0) & (split.labels[:, :, 5] == 0)).any():
                raise InputError(
                    "train, validation and test must hold a box each that is to be found",
                    got=f"{len(split)} pictures without one",
                    where=name,
                )
            if spec.one_class:
                split.labels[:, :, 4] = np.minimum(split.labels[:, :, 4], 0)
            if split.labels[:, :, 4].max() >= classes:
                highest = int(split.labels[:, :, 4].max())
                raise InputError(f"the classes of boxes must lie in 0..{classes - 1}", got=highest, where=name)
        check_disjoint(splits, _name(spec))
        if spec.train_items is not None:
            splits["train"] = splits["train"].head(spec.train_items)
        return splits

    return LazySplits(load)


def _fingerprint(
    spec: DetectionTask,
    encoding: ImageInput,
    boxes: Detections,
    labels: tuple[str, ...],
    given: list[object],
    data: list[str],
) -> str:
    asked = msgspec.to_builtins(spec)
    for place in ("onnx", "training", "boxes"):  # by content below: files may move
        asked.pop(place)
    if not isinstance(spec.data, VehicleBoxes):
        asked.pop("data")
    decisive = {
        "revision": _REVISION,
        "spec": asked,
        "given": given,
        "data": data,
        "encoding": msgspec.to_builtins(encoding),
        "boxes": msgspec.to_builtins(boxes),
        "labels": labels,
    }
    return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()
