"""The manifest: what an artifact is, as msgspec JSON. Changing a field here changes a file format: bump ``FORMAT``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tierwise._config import Spec
from tierwise.artifact._training_step import TrainingStep

__all__ = [
    "FORMAT",
    "Accuracy",
    "Boundary",
    "Coverage",
    "Detections",
    "Exit",
    "FileEntry",
    "Filtering",
    "ImageInput",
    "InputEncoding",
    "Manifest",
    "NodeAudit",
    "Provenance",
    "Rate",
    "Segment",
    "TensorInput",
    "TensorSpec",
    "TextInput",
]

FORMAT = 1
"""Version of the manifest this release writes."""

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class TensorSpec(Spec, frozen=True, kw_only=True):
    """One tensor at a segment's border.

    Attributes:
        name: Name in the ONNX graph.
        dtype: Open Inference Protocol name: ``FP32``, ``UINT8``, ``INT64``, ...
        shape: Axes; -1 where any size is accepted (the batch axis).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def nbytes(self, batch: int = 1) -> int:
        """Bytes of one tensor with ``batch`` in place of every -1."""
        size = {"FP32": 4, "FP16": 2, "FP64": 8, "UINT8": 1, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1}[self.dtype]
        for axis in self.shape:
            size *= batch if axis < 0 else axis
        return size


class ImageInput(Spec, frozen=True, tag="image", tag_field="kind", kw_only=True):
    """A picture, as the device holds it.

    The node turns it into ``tensor``: decode, resize (bilinear, antialiased) where the size differs, scale to [0, 1],
    subtract ``mean``, divide by ``std`` (per channel), layout NCHW, float32.

    Attributes:
        encoding: ``jpeg``/``png``: one BYTES element a picture (JPEG, PNG, WebP and BMP are told apart by themselves);
            ``uint8``: raw pixels, a UINT8 tensor [n, height, width, channels].
        height: Rows the model wants.
        width: Columns the model wants.
        channels: 1 (grey) or 3 (RGB).
        mean: Per channel, on the [0, 1] scale.
        std: Per channel, on the [0, 1] scale.
        tensor: Name of the model input that receives the result.
        fit: ``stretch`` gives the picture the model's height and width; ``letterbox`` keeps its proportions, puts it in
            the middle and fills the rest with grey. Unset: ``stretch``.
        order: Channels of a colour picture as the model wants them; ``mean`` and ``std`` are in this order. Unset:
            ``rgb``.
    """

    encoding: Literal["jpeg", "png", "uint8"]
    height: Annotated[int, msgspec.Meta(gt=0, le=8192)]
    width: Annotated[int, msgspec.Meta(gt=0, le=8192)]
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tensor: str = "input"
    # Left out of the file where unset: manifests without them stay what they were, byte by byte.
    fit: Literal["stretch", "letterbox"] | msgspec.UnsetType = msgspec.UNSET
    order: Literal["rgb", "bgr"] | msgspec.UnsetType = msgspec.UNSET


class TextInput(Spec, frozen=True, tag="text", tag_field="kind", kw_only=True):
    """UTF-8 text, or a pair of texts: BYTES [n, 1] or [n, 2]; the node tokenises and pads to ``max_length``.

    Attributes:
        tokenizer: File name inside the artifact (the ``tokenizers`` library's JSON).
        max_length: Tokens a row, padded and truncated to exactly this.
        pair: Whether an item is two texts.
        ids: Model input that receives the token ids (INT64 [n, max_length]).
        mask: Model input that receives the attention mask, or None.
        type_ids: Model input that receives segment ids, or None.
    """

    tokenizer: str = "tokenizer.json"
    max_length: Annotated[int, msgspec.Meta(gt=0, le=1 << 20)]
    pair: bool = False
    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    type_ids: str | None = None


class TensorInput(Spec, frozen=True, tag="tensor", tag_field="kind", kw_only=True):
    """Tensors that go into the model as they come (a model brought without its preprocessing)."""

    tensors: tuple[TensorSpec, ...]


InputEncoding = ImageInput | TextInput | TensorInput


class Detections(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """How a detector's output becomes boxes, on the node that runs the last segment.

    The answer is one tensor ``answer``, FP32 [n, most, 6]: left, top, right, bottom (shares of the model's picture, so
    that nothing about the client's has to travel with the request; `tierwise.artifact.to_picture` brings them back),
    score and class. Rows go from the best score downwards; unused ones at the end have score 0 and class -1.

    Attributes:
        tensor: The model's output that holds the boxes, FP32.
        layout: ``grid``: [n, 5 + classes, rows, columns], one box a cell, of objectness, offset and size before tanh
            and sigmoid, and class shares (the answer of FastestDet). ``rows``: [n, boxes, 4 + classes], of left, top,
            right, bottom as shares of the model's picture, and class scores in [0, 1].
        classes: Class of the task for each class of the model, -1 to drop it.
        least_score: Boxes below are dropped.
        most_overlap: Of two boxes of one class that overlap by more (intersection over union), the better stays.
        most: Boxes of one picture.
        answer: Name of the output.
    """

    tensor: str
    layout: Literal["grid", "rows"]
    classes: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    least_score: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01
    most_overlap: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.45
    most: Annotated[int, msgspec.Meta(gt=0, le=1000)] = 100
    answer: str = "detections"


class Filtering(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """An exit that drops what holds nothing of interest: what it looks for, and how well, on the validation split.

    Attributes:
        views: What was judged: whole ``items``, or ``tiles`` of them.
        interesting: Classes that are of interest; empty for detection, where every box is.
        least_recall: Share of the interesting views that must not be dropped; the threshold follows from it.
        parameters: Of the classifier.
        macs: Its multiply-accumulates for one item.
        roc_auc: Area under the curve of true over false alarms; None where nobody measured.
        dropped_frac: Share of all views that are dropped.
        empty_dropped_frac: Share of the views without interest that are dropped.
        lost_frac: Share of the interesting views that are dropped, the lost recall.
        margin: How far the threshold lies above the one that ``least_recall`` asks for on the validation split, as a
            difference of logits of the confidence.
    """

    views: Literal["items", "tiles"]
    interesting: tuple[int, ...] = ()
    least_recall: Annotated[float, msgspec.Meta(gt=0, le=1)]
    parameters: Annotated[int, msgspec.Meta(ge=0)]
    macs: Annotated[int, msgspec.Meta(ge=0)]
    roc_auc: float | None = None
    dropped_frac: float | None = None
    empty_dropped_frac: float | None = None
    lost_frac: float | None = None
    margin: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Exit(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """An answer that a segment can give for items it is sure of; they are not passed on.

    Attributes:
        confidence: Output of the segment, FP32, one value an item: [-1] or [-1, 1].
        threshold: An item leaves where its confidence is at least this.
        answers: For each output of the model, the output of this segment that stands for it.
        left_frac: Share of all items of the validation split that left here; None where nobody counted.
        filtering: What it drops, for a filter; None where items leave with an answer of their own.
    """

    confidence: str
    threshold: float
    answers: dict[str, str]
    left_frac: float | None = None
    filtering: Filtering | None = None


class Rate(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """One way to send a latent: what it costs and what is left of the metric.

    Attributes:
        channels: Channels sent, the first ones.
        item_bytes: Mean size of the frame of one item, on the validation split.
        metric: Name of the metric.
        value: Its value on the validation split, from what arrived.
        test: The same on the test split; None where that was not measured, and for all channels, whose value there is
            the artifact's accuracy.
    """

    channels: Annotated[int, msgspec.Meta(gt=0)]
    item_bytes: Annotated[float, msgspec.Meta(gt=0)]
    metric: str
    value: float
    test: float | None = None


class Boundary(Spec, frozen=True, kw_only=True):
    """How a tensor is coded on its way to the next segment (`tierwise.codecs`).

    Attributes:
        tensor: Output of the segment, FP32 [-1, channels, ...].
        codec: ``raw``, ``affine`` or ``prior``.
        tables: File of the codec's tables inside the artifact.
        rates: What may be sent, all channels last.
        encoder_bits: Of all parameters of the segment.
    """

    tensor: str
    codec: Literal["raw", "affine", "prior"]
    tables: str
    rates: Annotated[tuple[Rate, ...], msgspec.Meta(min_length=1)]
    encoder_bits: Annotated[int, msgspec.Meta(ge=0)]


class Segment(Spec, frozen=True, kw_only=True, omit_defaults=True):
    """One ONNX file of the chain, run on one tier.

    Attributes:
        file: File name inside the artifact.
        inputs: Tensors it needs; each is an input of the model or an output of an earlier segment.
        outputs: Tensors it makes.
        macs: Multiply-accumulates of one item, from the graph.
        weight_bits: Of all its parameters; None in artifacts of earlier releases.
        exit: Where items may leave before the next segment; None where all go on.
        boundary: How an output is coded when the next segment runs on another node; None where it crosses as it is.
    """

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    macs: int
    exit: Exit | None = None
    boundary: Boundary | None = None
    weight_bits: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Accuracy(Spec, frozen=True, kw_only=True):
    """How good the variant was, once, on one split.

    Attributes:
        metric: ``accuracy`` or ``f1``.
        value: In [0, 1].
        split: ``test`` or ``validation``.
        items: Number of items.
    """

    metric: str
    value: float
    split: str
    items: int


class NodeAudit(Spec, frozen=True, kw_only=True):
    """One operator of the optimised graph.

    Attributes:
        node: Its name in the optimised graph.
        op: Its operator type there (``QLinearConv``, ``Conv``, ...).
        int8: Whether it computes in 8-bit integers.
        macs: Multiply-accumulates it stands for (0 for cheap operators).
        reason: Why it does not run in int8; empty where it does or where it has no arithmetic to speak of.
    """

    node: str
    op: str
    int8: bool
    macs: int
    reason: str = ""


class Coverage(Spec, frozen=True, kw_only=True):
    """What of the graph ONNX Runtime really runs in int8 after its own optimisation, on the machine that built it.

    Attributes:
        int8_ops: Compute operators (convolution, matrix product) in int8.
        float_ops: Compute operators left in float.
        int8_macs_frac: Share of the multiply-accumulates that runs in int8.
        nodes: One entry per compute operator.
        isa: Instruction set it was audited on (``x86-vnni``, ``x86``, ``arm64``).
    """

    int8_ops: int
    float_ops: int
    int8_macs_frac: float
    nodes: tuple[NodeAudit, ...]
    isa: str


class Provenance(Spec, frozen=True, kw_only=True):
    """What made an artifact, and from what.

    Attributes:
        task: Name of the task.
        task_fingerprint: Hash of the task's spec (model, data, seed).
        chain: Operator chain as written, ``sptq+partition``.
        specs: The operators' specs in order, as plain data.
        versions: Package versions that took part.
        composition_error: Largest absolute difference between the composed segments and the uncut model, where cut.
        notes: Remarks made by operators for the reader of a report (which cut and why, ranges, ...).
        training_s: CPU seconds of training and calibration that went into it.
    """

    task: str
    task_fingerprint: str
    chain: str
    specs: tuple[dict[str, object], ...]
    versions: dict[str, str]
    composition_error: float | None = None
    notes: tuple[str, ...] = ()
    training_s: float = 0.0


class FileEntry(Spec, frozen=True, kw_only=True):
    """A file of the artifact beside the manifest."""

    name: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Sha256


class Manifest(Spec, frozen=True, kw_only=True):
    """All that is known about an artifact.

    Attributes:
        format: Version of this structure.
        name: Name to serve it under when the user gives none.
        input: What a client sends and how it becomes tensors.
        outputs: What the last segment answers.
        labels: Class names in the order of the last axis of the first output, or empty.
        segments: ONNX files in the order they run.
        files: Every other file of the directory with size and hash.
        provenance: What made it.
        accuracy: How good it was; several splits may be given.
        coverage: The int8 audit, where a quantising operator took part.
        boxes: How the last segment's output becomes boxes, for a detector; unset for all others.
        training: The compiled training step, where a node can train the artifact; unset for all others.
    """

    format: int = FORMAT
    name: str
    input: InputEncoding
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    segments: Annotated[tuple[Segment, ...], msgspec.Meta(min_length=1)]
    files: tuple[FileEntry, ...]
    provenance: Provenance
    accuracy: tuple[Accuracy, ...] = ()
    coverage: Coverage | None = None
    # Left out of the file where unset, so that the artifacts of other tasks stay what they were, byte by byte.
    boxes: Detections | msgspec.UnsetType = msgspec.UNSET
    training: TrainingStep | msgspec.UnsetType = msgspec.UNSET
