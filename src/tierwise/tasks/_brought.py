"""Tasks that a user brings: a function of theirs that returns one, or an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tierwise._errors import InputError, SpecError, TierwiseError
from tierwise.artifact import Detections, ImageInput, TensorInput, TensorSpec, TextInput, detect
from tierwise.measure import Progress
from tierwise.tasks._function import call_function
from tierwise.tasks._spec import ModuleTask, OnnxTask, Subject, Training
from tierwise.tasks._splits import check_disjoint
from tierwise.tasks._task import SPLITS, LazySplits, Split, Task, item_digest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["module_task", "onnx_task"]


def module_task(spec: ModuleTask, progress: Progress) -> Task:
    """See `tierwise.tasks.load_task`."""
    with progress.step(f"call {spec.function}", None):
        task, module = call_function(spec.function, spec.folder, where="task.function")
    where = f"what {spec.function} returned"
    if not isinstance(task, Task):
        raise InputError(
            "it must be a tierwise.tasks.Task",
            got=type(task).__name__,
            where=where,
            fix="Return Task(name=..., encoding=..., labels=..., splits={'train': Split(items, labels)}, model=...)",
        )
    _check_fields(task, where)
    _check_splits(task.splits, len(task.labels), where, boxes=task.boxes is not None)
    weights = "" if task.model is None else _check_model(task, progress, where)
    given = [spec.function, _source_hash(module), task.fingerprint, weights]
    return replace(task, fingerprint=_fingerprint(task, given))


def onnx_task(spec: OnnxTask, progress: Progress) -> Task:
    """See `tierwise.tasks.load_task`."""
    path = Path(spec.file)
    if not path.is_file():
        raise SpecError("the ONNX file must exist", got=repr(spec.file), where="task.file")
    if spec.data is not None and spec.splits is not None:
        raise SpecError("data and splits exclude each other", where="task.splits", fix="Give one of them")
    inputs, outputs, classes = _signature(path)
    encoding = spec.encoding or TensorInput(tensors=inputs)
    given = [hashlib.sha256(path.read_bytes()).hexdigest()]
    splits: Mapping[str, Split]
    if spec.splits is not None:
        returned, _ = call_function(spec.splits, spec.folder, where="task.splits")
        if not isinstance(returned, Mapping):
            raise InputError(
                "it must be a mapping from split name to tierwise.tasks.Split",
                got=type(returned).__name__,
                where=f"what {spec.splits} returned",
            )
        splits = returned
    elif spec.data is not None:
        splits = _npz_splits(Path(spec.data), encoding)
    else:
        splits = LazySplits(lambda: _no_data(path))
    files = {}
    if isinstance(encoding, TextInput):
        if spec.tokenizer is None or not Path(spec.tokenizer).is_file():
            raise SpecError("a text encoding needs the tokenizer's file", got=spec.tokenizer, where="task.tokenizer")
        files[encoding.tokenizer] = Path(spec.tokenizer).read_bytes()
    labels = spec.labels or tuple(map(str, range(classes or 0)))
    task = Task(
        name=spec.name or path.stem,
        encoding=encoding,
        labels=labels,
        metric=spec.metric,
        splits=splits,
        model=None,
        onnx=path,
        outputs=outputs,
        files=files,
    )
    _check_names(encoding, inputs, path)
    if not isinstance(splits, LazySplits):
        _check_splits(splits, len(labels), f"the data of {task.name}")
    return replace(task, fingerprint=_fingerprint(task, given))


def _signature(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[str, ...], int | None]:
    """Inputs, names of outputs, and the width of the first output where it is fixed."""
    import onnx

    try:
        # Weights beside the file are not needed to know its inputs.
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError and others that share no base class
        raise SpecError(f"the file must be an ONNX model ({error})", where=path) from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor_spec(value, path) for value in model.graph.input if value.name not in constants)
    axes = model.graph.output[0].type.tensor_type.shape.dim
    classes = axes[-1].dim_value if len(axes) == 2 and axes[-1].HasField("dim_value") else None
    return inputs, tuple(value.name for value in model.graph.output), classes


def _tensor_spec(value: Any, path: Path) -> TensorSpec:
    import onnx

    names = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}
    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    shape = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in value.type.tensor_type.shape.dim]
    dtype = names.get(kind, kind)
    if dtype not in ("FP32", "FP16", "FP64", "UINT8", "INT8", "INT32", "INT64", "BOOL"):
        raise SpecError("an input must be of a numeric type", got=kind, where=f"{path}: {value.name}")
    if not shape:
        raise SpecError("an input must have a batch axis", got="a scalar", where=f"{path}: {value.name}")
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(shape))


def _check_names(encoding: ImageInput | TextInput | TensorInput, inputs: tuple[TensorSpec, ...], path: Path) -> None:
    match encoding:
        case ImageInput(tensor=name):
            made = {name}
        case TextInput(ids=ids, mask=mask, type_ids=type_ids):
            made = {name for name in (ids, mask, type_ids) if name is not None}
        case TensorInput(tensors=tensors):
            made = {tensor.name for tensor in tensors}
    wanted = {tensor.name for tensor in inputs}
    if made != wanted:
        raise SpecError(
            f"the encoding must make the model's inputs {sorted(wanted)}",
            got=sorted(made),
            where=f"task.encoding for {path}",
        )


def _no_data(path: Path) -> Mapping[str, Split]:
    raise InputError(
        "this task has no data: calibration and accuracy need some",
        where=path,
        fix="Give `data` (a .npz file) or `splits` (module:function) in the [task] table",
    )


def _npz_splits(path: Path, encoding: ImageInput | TextInput | TensorInput) -> dict[str, Split]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise SpecError(f"the data must be a readable .npz file without objects ({error})", where=path) from error
    splits = {}
    for name in SPLITS:
        keys = {"": f"{name}_items"}
        if isinstance(encoding, TensorInput):
            several = len(encoding.tensors) > 1
            keys = {t.name: f"{name}_items_{t.name}" if several else f"{name}_items" for t in encoding.tensors}
        missing = [key for key in (*keys.values(), f"{name}_labels") if key not in arrays]
        if missing:
            raise SpecError(f"the data must hold the array {missing[0]}", got=sorted(arrays), where=path)
        columns = {tensor: arrays[key] for tensor, key in keys.items()}
        labels = arrays[f"{name}_labels"].astype(np.int64)
        splits[name] = Split(_items(columns, encoding, path), labels)
    return splits


def _items(columns: dict[str, Any], encoding: ImageInput | TextInput | TensorInput, path: Path) -> list[Any]:
    if isinstance(encoding, TensorInput):
        count = min(len(column) for column in columns.values())
        return [{name: column[i] for name, column in columns.items()} for i in range(count)]
    column = columns[""]
    if isinstance(encoding, TextInput):
        return [tuple(map(str, row)) if encoding.pair else str(row) for row in column]
    if encoding.encoding != "uint8":
        raise SpecError(
            "encoded pictures cannot stand in a .npz file (arrays of bytes lose trailing zeros)",
            where=path,
            fix="Give `splits` (module:function) instead of `data`",
        )
    return list(column)


def _check_fields(task: Task, where: str) -> None:
    """The simple fields of a user's task."""
    checks = {
        "name": (isinstance(task.name, str) and task.name != "", "a non-empty text"),
        "encoding": (
            isinstance(task.encoding, (ImageInput, TextInput, TensorInput)),
            "an ImageInput, TextInput or TensorInput of tierwise.artifact",
        ),
        "labels": (
            isinstance(task.labels, tuple)
            and len(task.labels) > (task.boxes is None)
            and all(isinstance(x, str) for x in task.labels),
            "a tuple of at least two class names (one will do for boxes)",
        ),
        "metric": (
            task.metric in (("accuracy", "f1") if task.boxes is None else ("map", "map50")),
            "'accuracy' or 'f1'" if task.boxes is None else "'map' or 'map50'",
        ),
        "boxes": (task.boxes is None or isinstance(task.boxes, Detections), "None or a tierwise.artifact.Detections"),
        "model": (
            callable(task.model) or (task.model is None and task.onnx is not None),
            "a function from a Progress to the trained torch module (or None with `onnx` set)",
        ),
        "onnx": (
            task.onnx is None or (isinstance(task.onnx, Path) and task.onnx.is_file()),
            "None or a path to a file",
        ),
        "outputs": (
            isinstance(task.outputs, tuple) and len(task.outputs) > 0 and all(isinstance(x, str) for x in task.outputs),
            "a tuple of names",
        ),
        "files": (
            isinstance(task.files, Mapping) and all(isinstance(content, bytes) for content in task.files.values()),
            "a mapping from file name to bytes",
        ),
        "fingerprint": (isinstance(task.fingerprint, str), "a text"),
        "subject": (task.subject is None or isinstance(task.subject, Subject), "None or one of the built-in subjects"),
        "student": (
            task.student is None or callable(task.student),
            "None or a function from two shares (depth, width) to an untrained torch module",
        ),
        "training": (task.training is None or isinstance(task.training, Training), "None or a Training"),
        "splits": (isinstance(task.splits, Mapping), f"a mapping with the keys {', '.join(SPLITS)}"),
    }
    for field, (good, wanted) in checks.items():
        if not good:
            raise InputError(f"its {field} must be {wanted}", got=repr(getattr(task, field))[:80], where=where)


def _check_boxes(split: Split, name: str, classes: int, where: str) -> None:
    labels = split.labels
    if labels.dtype != np.float32 or labels.shape[2] != 6 or len(labels) != len(split.items) or len(labels) == 0:
        raise InputError(
            f"the labels of {name} must be float32 [n, most, 6] for its n >= 1 items",
            got=f"{labels.dtype} {list(labels.shape)} for {len(split.items)} items",
            where=where,
            fix="Make them with tierwise.tasks.box_labels",
        )
    if labels[:, :, 4].max() >= classes:
        raise InputError(
            f"the classes of {name} must lie in 0..{classes - 1}", got=int(labels[:, :, 4].max()), where=where
        )


def _check_splits(splits: Mapping[str, Split], classes: int, where: str, *, boxes: bool = False) -> None:
    for name in SPLITS:
        if name not in splits:
            raise InputError(f"its splits must hold {name!r}", got=sorted(splits), where=where)
        split = splits[name]
        if not isinstance(split, Split):
            raise InputError(
                f"its splits[{name!r}] must be a tierwise.tasks.Split", got=type(split).__name__, where=where
            )
        labels = split.labels
        if isinstance(labels, np.ndarray) and labels.ndim == 3 and boxes:
            _check_boxes(split, name, classes, where)
            continue
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.ndim != 1:
            got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise InputError(f"the labels of {name} must be an int64 array [n]", got=got, where=where)
        if len(split.items) != len(labels) or len(labels) == 0:
            raise InputError(
                f"{name} must have one label per item, and at least one item",
                got=f"{len(split.items)} items, {len(labels)} labels",
                where=where,
            )
        if labels.min() < 0 or (classes and labels.max() >= classes):
            raise InputError(
                f"the labels of {name} must lie in 0..{classes - 1}",
                got=f"{labels.min()}..{labels.max()}",
                where=where,
            )
    check_disjoint({name: splits[name] for name in SPLITS}, where)


def _check_model(task: Task, progress: Progress, where: str) -> str:
    """Build the model once, run it on the example; the SHA-256 of its weights."""
    import torch
    from torch import nn

    if task.model is None:
        return ""
    if isinstance(task.model, nn.Module):  # callable too, so its fields looked right
        raise InputError(
            "its model must be a function that gives the module",
            got="the module itself",
            where=where,
            fix="Write model=lambda progress: module",
        )
    try:
        module: nn.Module = task.model(progress)
    except TierwiseError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise InputError(f"its model must not fail ({type(error).__name__}: {error})", where=where) from error
    if not isinstance(module, nn.Module):
        raise InputError("its model must give a torch module", got=type(module).__name__, where=where)
    if module.training:
        raise InputError("its model must be in eval mode", where=where, fix="Call .eval() on it before returning it")
    try:
        example = task.example()
        with torch.inference_mode():
            answer = module(*example.values())
    except TierwiseError:
        raise
    except Exception as error:  # whatever a user's forward raises
        raise InputError(
            f"its model must run on two calibration items ({type(error).__name__}: {error})",
            where=where,
            fix="forward must take the tensors that the encoding makes, in their order",
        ) from error
    first = answer[0] if isinstance(answer, tuple) else answer
    shape = list(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
    if task.boxes is not None:
        if not isinstance(first, torch.Tensor) or task.boxes.tensor != task.outputs[0]:
            raise InputError(
                "its first output must be the tensor of its boxes", got=f"{shape}, {task.outputs[0]}", where=where
            )
        detect(task.boxes, first.numpy())
    elif shape != [2, len(task.labels)]:
        raise InputError(f"its model must answer logits [n, {len(task.labels)}]", got=f"{shape} for n = 2", where=where)
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _source_hash(module: ModuleType) -> str:
    path = module.__file__
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _fingerprint(task: Task, given: list[str]) -> str:
    data = {}
    if not isinstance(task.splits, LazySplits) or task.model is not None:
        for name in SPLITS:
            content = "".join(map(item_digest, task.splits[name].items)).encode() + task.splits[name].labels.tobytes()
            data[name] = hashlib.sha256(content).hexdigest()
    decisive = {
        "given": given,
        "name": task.name,
        "encoding": msgspec.to_builtins(task.encoding),
        "labels": task.labels,
        "metric": task.metric,
        "outputs": task.outputs,
        "onnx": hashlib.sha256(task.onnx.read_bytes()).hexdigest() if task.onnx is not None else None,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in task.files.items()},
        "data": data,
    }
    return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()
