"""The task: a trained model, its data, its metric, and what a device really holds and would send."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, TierwiseError
from tierwise._seeds import stream
from tierwise.artifact import Detections, InputEncoding, Preprocessor, TensorInput, detect, to_payload
from tierwise.measure import Progress
from tierwise.tasks._spec import Subject, Training

if TYPE_CHECKING:
    import torch

__all__ = [
    "SPLITS",
    "Item",
    "LazySplits",
    "Metric",
    "Split",
    "Task",
    "item_digest",
    "score",
    "score_classes",
]

SPLITS = ("train", "calibration", "validation", "test")
"""The four splits of every task. ``test`` is for the one final accuracy of a variant; nothing is chosen by it."""

Item = bytes | str | tuple[str, str] | npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]
"""What the device holds: an encoded picture, a text, a pair of texts, uint8 pixels [height, width, channels], or (for
a model that came without its preprocessing) one row of each input tensor by name."""

Metric = Literal["accuracy", "f1", "map", "map50"]

_DTYPES = {
    "FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "UINT8": np.uint8, "INT8": np.int8,
    "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip


@final
@dataclass(frozen=True)
class Split:
    """Items with their labels.

    Attributes:
        items: What the device holds.
        labels: Class of each item, int64 [n]; for detection the boxes of each, FP32 [n, most, 6], as
            `tierwise.tasks.box_labels` packs them.
        names: Where each item comes from, for messages: the path of a file. Empty where nothing better than its place
            in the split is known.
    """

    items: Sequence[Item]
    labels: npt.NDArray[Any]
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that names are of the items.

        Raises:
            InputError: There are some, and not one for each item.
        """
        if self.names and len(self.names) != len(self.items):
            raise InputError(
                "a split must have a name for each item, or none",
                got=f"{len(self.names)} names, {len(self.items)} items",
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Split:
        """The items at ``indices``, in that order."""
        chosen = [int(i) for i in indices]
        names = [self.names[i] for i in chosen] if self.names else ()
        return Split([self.items[i] for i in chosen], self.labels[np.asarray(indices, dtype=np.int64)], names)

    def head(self, count: int) -> Split:
        """The first ``count`` items (all, where there are fewer)."""
        return Split(self.items[:count], self.labels[:count], self.names[:count])


@final
class LazySplits(Mapping[str, Split]):
    """The four splits by name, loaded together at the first access.

    Args:
        load: Gives all four.
    """

    def __init__(self, load: Callable[[], Mapping[str, Split]]) -> None:
        self._load = load

    @cached_property
    def _splits(self) -> Mapping[str, Split]:
        return self._load()

    def __getitem__(self, name: str) -> Split:
        if name not in SPLITS:
            raise KeyError(name)
        return self._splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)


@final
@dataclass(frozen=True)
class Task:
    """What is to be deployed.

    Attributes:
        name: Short name.
        encoding: What a client sends and how it becomes tensors (`tierwise.artifact.InputEncoding`).
        labels: Class names in the order of the last axis of the first output.
        metric: ``accuracy``, or ``f1`` of class 1; for detection ``map`` or ``map50``.
        splits: ``train``, ``calibration``, ``validation`` and ``test``; no item is in two of them.
        model: Gives the trained module in eval mode; its ``forward`` takes the tensors of `example` in their order and
            returns the first output. Slow at the first call only. None where there is no source.
        outputs: Names of the outputs.
        onnx: The model's file, for a task that came as ONNX.
        files: Files that preprocessing needs, by name inside the artifact (``tokenizer.json``).
        fingerprint: SHA-256 of everything that decides data and weights. A user's function may leave it empty or
            give a text of its own; `load_task` mixes it into the hash.
        subject: The built-in family the model is of, from which a smaller student can be derived; None for others.
        student: Gives an untrained module with the model's inputs and outputs that is smaller, from the share of depth
            and of width that shall stay; for models that are of no built-in family.
        training: How the model was trained; operators that train start from it.
        boxes: How the first output becomes boxes, for detection; None for all others.
    """

    name: str
    encoding: InputEncoding
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    model: Callable[[Progress], torch.nn.Module] | None
    metric: Metric = "accuracy"
    outputs: tuple[str, ...] = ("logits",)
    onnx: Path | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    fingerprint: str = ""
    subject: Subject | None = None
    student: Callable[[float, float], torch.nn.Module] | None = None
    training: Training | None = None
    boxes: Detections | None = None

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """The very code that a node runs, with this task's files."""
        with tempfile.TemporaryDirectory(prefix="tierwise-task-") as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return Preprocessor(self.encoding, Path(folder))

    def tensors(self, items: Sequence[Item]) -> dict[str, npt.NDArray[Any]]:
        """Model inputs by name for a batch of items, exactly as a node makes them.

        Args:
            items: At least one.

        Raises:
            InputError: An item does not fit the encoding.
        """
        if not isinstance(self.encoding, TensorInput):
            try:
                return self.preprocessor(to_payload(self.encoding, items))
            except InputError as error:
                place = self._place(items)
                if place is None:
                    raise
                raise InputError(error.must, got=error.got, where=place, fix=error.fix) from error
        rows = [item for item in items if isinstance(item, Mapping)]
        if len(rows) != len(items):
            raise InputError(
                "each item of a task with tensor inputs must be a mapping from input name to one row", where=self.name
            )
        return self.preprocessor({spec.name: np.stack([r[spec.name] for r in rows]) for spec in self.encoding.tensors})

    def _place(self, items: Sequence[Item]) -> str | None:
        """Where the first of ``items`` that does not fit the encoding comes from; None where that is not known."""
        assert not isinstance(self.encoding, TensorInput), "rows of tensors have no preprocessing"
        for item in items:
            try:
                self.preprocessor(to_payload(self.encoding, [item]))
            except InputError:
                return self._origin(item)
        return None

    def _origin(self, item: Item) -> str | None:
        try:
            splits = dict(self.splits)
        except TierwiseError:  # data that cannot be had is not what was wrong with the item
            return None
        for name, split in splits.items():
            for index, other in enumerate(split.items):
                if other is item:
                    return split.names[index] if split.names else f"item {index} of {name}"
        return None

    def batches(self, split: str, size: int) -> Iterator[tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any]]]:
        """Model inputs and labels of a split, in its order, ``size`` items at a time (the last may be smaller)."""
        chosen = self.splits[split]
        for start in range(0, len(chosen), size):
            yield self.tensors(chosen.items[start : start + size]), chosen.labels[start : start + size]

    def score(self, raw: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
        """The metric of the model's first output as the model gives it, before a node makes boxes of it.

        Raises:
            InputError: As `score`.
        """
        return score(self.metric, raw if self.boxes is None else detect(self.boxes, raw), labels)

    def example(self) -> dict[str, torch.Tensor]:
        """Model inputs by name, in the order of ``forward``, for a batch of two.

        Real calibration items where the task has data, else seeded random tensors of the right shape.
        """
        import torch

        if isinstance(self.encoding, TensorInput):
            return {
                spec.name: torch.from_numpy(_random(spec.name, spec.dtype, spec.shape))
                for spec in self.encoding.tensors
            }
        items = self.splits["calibration"].items[:2]
        return {name: torch.from_numpy(array) for name, array in self.tensors(items).items()}


def _random(name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    # The first axis is the batch; another free axis gets a size that is neither 1 nor 2, so that mixing them up shows.
    size = (2, *(16 if axis < 0 else axis for axis in shape[1:]))
    kind = _DTYPES[dtype]
    generator = stream(0, "example", name)
    if dtype.startswith("FP"):
        return generator.standard_normal(size).astype(kind)
    return generator.integers(0, 2, size).astype(kind)


def item_digest(item: Item) -> str:
    """SHA-256 of an item's content; equal exactly for equal items."""
    digest = hashlib.sha256()
    if isinstance(item, bytes):
        digest.update(b"bytes\0" + item)
    elif isinstance(item, str):
        digest.update(b"text\0" + item.encode())
    elif isinstance(item, tuple):
        first, second = item
        digest.update(f"pair\0{len(first)}\0{first}{second}".encode())
    elif isinstance(item, Mapping):
        for name in sorted(item):
            digest.update(name.encode() + b"\0")
            _digest_array(digest, np.asarray(item[name]))
    else:
        _digest_array(digest, np.asarray(item))
    return digest.hexdigest()


def _digest_array(digest: hashlib._Hash, array: npt.NDArray[Any]) -> None:
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())


def score(metric: Metric, logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """How good predictions are, in [0, 1].

    Args:
        metric: ``accuracy``, or ``f1``: the harmonic mean of precision and recall of class 1 (0 where it was never
            predicted rightly). ``map``: COCO's mean average precision over overlaps from 0.5 to 0.95; ``map50``: at 0.5
            alone (`tierwise.tasks.BoxScores`).
        logits: [n, classes]; the largest is the prediction. For boxes [n, most, 6], as a node answers them.
        labels: [n]; for boxes as `Split.labels`.

    Raises:
        InputError: No items, or shapes that do not fit.
        UnavailableError: Boxes are to be scored, and pycocotools is not installed.

    Example:
        >>> score("f1", np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), np.array([1, 0, 0]))
        0.6666666666666666
    """
    if metric in ("map", "map50"):
        from tierwise.tasks._box_scores import BoxScores

        found = BoxScores(logits, labels)
        return found.map if metric == "map" else found.map50
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise InputError(
            "logits must be [n, classes] and labels [n] with n >= 1", got=f"{logits.shape}, {labels.shape}"
        )
    return score_classes(metric, logits.argmax(axis=1), labels)


def score_classes(metric: Metric, predicted: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """`score` of answers that are classes already.

    Args:
        metric: As there.
        predicted: [n].
        labels: [n].

    Raises:
        InputError: No items, or shapes that do not fit.
    """
    if labels.ndim != 1 or predicted.shape != labels.shape or len(labels) == 0:
        raise InputError("classes and labels must be [n] with n >= 1", got=f"{predicted.shape}, {labels.shape}")
    if metric == "accuracy":
        return float((predicted == labels).mean())
    hits = int(((predicted == 1) & (labels == 1)).sum())
    return 2 * hits / int((predicted == 1).sum() + (labels == 1).sum()) if hits else 0.0
