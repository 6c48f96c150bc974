"""What a task is asked for with: the ``[task]`` table of a study. Importing this needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from tierwise._config import Spec
from tierwise._errors import SpecError
from tierwise.artifact import Detections, InputEncoding
from tierwise.tasks._picture_spec import DenseNet, Inception, MobileNetV2

__all__ = [
    "Bert",
    "BuiltinName",
    "BuiltinTask",
    "CocoFiles",
    "DetectionTask",
    "FastestDet",
    "FullSize",
    "ModuleTask",
    "OnnxTask",
    "ResNeXt",
    "ResNet",
    "Roberta",
    "Subject",
    "TaskSpec",
    "Training",
    "VehicleBoxes",
    "YoloFolders",
    "task_names",
]

BuiltinName = Literal["digits", "fashion-mnist", "cifar10-jpeg", "tiny-imagenet-20", "sst2", "mrpc"]
Positive = Annotated[int, msgspec.Meta(gt=0)]
Size = Literal["tiny", "mini", "small", "medium", "base"]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

_HEAD_WIDTH = 64

# layers, hidden width; heads are 64 wide where nothing else is said, and the feed-forward part is four times the width
# (Turc et al. 2019, arXiv 1908.08962).
_SIZES: dict[str, tuple[int, int]] = {
    "tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)
}  # fmt: skip


class ResNet(Spec, frozen=True, tag="resnet", tag_field="family", kw_only=True):
    """A residual network for small pictures: 3 stages, 3x3 stem (He et al. 2016, arXiv 1512.03385, section 4.2).

    Attributes:
        depth: 6n+2 with basic blocks, 9n+2 with bottlenecks.
        width: Channels of the first stage (a wide network is one with more; arXiv 1605.07146).
        block: ``basic`` (two 3x3) or ``bottleneck`` (1x1, 3x3, 1x1 with four times the channels going out).
        stem_stride: Of the first convolution; None is 1. 2 makes pictures of 64 pixels cost what those of 32 do.
        start: ``cifar10`` starts from published weights for CIFAR-10 (depth 20, 32 or 56, width 16, colour pictures;
            the classifier only where there are ten classes); None from random ones. They saw all training pictures of
            CIFAR-10, which our validation split of it is cut from: of that task trust the test split alone.
    """

    depth: Positive = 8
    width: Positive = 16
    block: Literal["basic", "bottleneck"] = "basic"
    stem_stride: Literal[1, 2] | None = None
    start: Literal["cifar10"] | None = None


class ResNeXt(Spec, frozen=True, tag="resnext", tag_field="family", kw_only=True):
    """Bottlenecks with grouped convolutions for small pictures (Xie et al. 2017, arXiv 1611.05431, section 5.2).

    Attributes:
        depth: 9n+2.
        width: A quarter of the channels that leave the first stage.
        cardinality: Groups of the 3x3 convolution.
        group_width: Channels of one group in the first stage; doubles with each stage.
    """

    depth: Positive = 29
    width: Positive = 64
    cardinality: Positive = 8
    group_width: Positive = 64


class FullSize(Spec, frozen=True, tag="full-size", tag_field="family", kw_only=True):
    """A residual network as published for 224x224 pictures: 4 stages, 7x7 stem with pooling.

    Attributes:
        architecture: Its usual name.
    """

    architecture: Literal[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "wide_resnet50_2",
        "wide_resnet101_2",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
    ] = "resnet18"


class _TextEncoder(Spec, frozen=True, tag_field="family", kw_only=True):
    """A text encoder with a classifier, trained from scratch or from a start.

    Attributes:
        size: tiny 2x128, mini 4x256, small 4x512, medium 8x512, base 12x768 (layers x hidden).
        vocabulary: Word pieces or byte pairs, learnt from the task's train split.
        max_length: Tokens a row; padded and truncated to exactly this.
        dropout_frac: Dropped activations while training.
        layers: Number of layers where it is not that of the size.
        hidden: Width where it is not that of the size; a multiple of the heads'.
        head_width: Width of an attention head; 64 where None.
        start: Trained weights to start from: a folder in Hugging Face layout (``config.json``, ``model.safetensors``,
            ``tokenizer.json``; for word pieces, ``vocab.txt`` will do), or ``python:NAME`` for an installed package
            that carries such a folder (``python:NAME/FOLDER`` where it carries several). Shape, vocabulary and tokens
            are then those of the folder. Nothing is downloaded and nothing unpickled.
        start_sha256: What the start's weights must have; where None, it is filled in when the start is read.
    """

    size: Size = "tiny"
    vocabulary: Annotated[int, msgspec.Meta(ge=300)] = 4000
    max_length: Annotated[int, msgspec.Meta(ge=8, le=512)] = 64
    dropout_frac: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    layers: Positive | None = None
    hidden: Positive | None = None
    head_width: Positive | None = None
    start: str | None = None
    start_sha256: Sha256 | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and width."""
        layers, hidden = _SIZES[self.size]
        return self.layers or layers, self.hidden or hidden

    @property
    def heads(self) -> int:
        """Attention heads of a layer.

        Raises:
            SpecError: The width is no multiple of theirs.
        """
        hidden, head_width = self.shape[1], self.head_width or _HEAD_WIDTH
        heads, rest = divmod(hidden, head_width)
        if rest or not heads:
            raise SpecError(
                f"the width of a text subject must be a multiple of its heads', {head_width}",
                got=hidden,
                where="task.subject.hidden",
                fix="Take a multiple, or name another head_width",
            )
        return heads


class Bert(_TextEncoder, frozen=True, tag="bert", kw_only=True):
    """A BERT encoder with word pieces, in the published layout (arXiv 1810.04805)."""


class Roberta(_TextEncoder, frozen=True, tag="roberta", kw_only=True):
    """A RoBERTa encoder: byte-level BPE, no segment ids (arXiv 1907.11692)."""


class FastestDet(Spec, frozen=True, tag="fastestdet", tag_field="family", kw_only=True):
    """An anchor-free detector on ShuffleNetV2, for pictures whose sides are multiples of 32.

    Attributes:
        width: Half the channels of the first stage, a quarter of those of the second.
        start: ``coco`` starts from the weights that its makers trained on COCO (of width 24); None from random ones.
    """

    width: Annotated[int, msgspec.Meta(ge=16, le=128, multiple_of=4)] = 24
    start: Literal["coco"] | None = None


Subject = ResNet | ResNeXt | FullSize | MobileNetV2 | DenseNet | Inception | Bert | Roberta | FastestDet


class Training(Spec, frozen=True, kw_only=True):
    """How a built-in subject is trained: cosine schedule with one warm-up pass over 5 % of the steps.

    Attributes:
        epochs: Passes over the train split; 0 leaves the seeded random weights (enough to study latency alone).
        batch: Items a step.
        optimiser: ``adamw`` or ``sgd`` (Nesterov momentum 0.9).
        learning_rate: At its peak.
        weight_decay: On weights, not on biases and norms.
        shift_pixels: Pictures are moved at random by up to this much.
        flip: Pictures are mirrored at random.
        precision: ``auto`` takes bfloat16 where the CPU has instructions for it, else float32.
    """

    epochs: Annotated[int, msgspec.Meta(ge=0)]
    batch: Positive = 128
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 2e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    shift_pixels: Annotated[int, msgspec.Meta(ge=0)] = 0
    flip: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class BuiltinTask(Spec, frozen=True, tag="builtin", tag_field="kind", kw_only=True):
    """A data set and a subject model that Tierwise knows.

    Attributes:
        name: Which data set.
        subject: The model; None takes the data set's default.
        training: How it is trained; None takes the data set's default.
        seed: Root of all randomness: splits, weights, order, augmentation.
        train_items: Upper limit of the train split, for quick trials.
        input_pixels: Height and width the model sees, where it shall differ from the data's (the node resizes).
    """

    name: BuiltinName
    subject: Subject | None = None
    training: Training | None = None
    seed: int = 0
    train_items: Positive | None = None
    input_pixels: Positive | None = None


class ModuleTask(Spec, frozen=True, tag="module", tag_field="kind", kw_only=True):
    """A user's own task.

    Attributes:
        function: ``module:function``; called without arguments, returns a `tierwise.tasks.Task`.
        folder: Where the module's file lies, if it is not installed (from the current directory).
    """

    function: str
    folder: str | None = None


class OnnxTask(Spec, frozen=True, tag="onnx", tag_field="kind", kw_only=True):
    """A model that comes as an ONNX file, without its source; operators that train cannot be applied to it.

    Attributes:
        file: The ONNX file, batch axis first on every input and output.
        name: Name of the task; the file's stem where None.
        encoding: What a client sends; None sends the model's own input tensors.
        data: A ``.npz`` file with ``<split>_items`` and ``<split>_labels`` for each split (with tensor inputs, one
            ``<split>_items_<input>`` per input; ``<split>_items`` will do for a single one); nothing in it is pickled.
        splits: ``module:function`` in place of ``data``; returns a mapping from split name to `tierwise.tasks.Split`.
        folder: As `ModuleTask.folder`, for ``splits``.
        tokenizer: The tokenizer's JSON file, for a text encoding.
        labels: Class names; numbered where empty.
        metric: ``accuracy`` or ``f1``.
    """

    file: str
    name: str | None = None
    encoding: InputEncoding | None = None
    data: str | None = None
    splits: str | None = None
    folder: str | None = None
    tokenizer: str | None = None
    labels: tuple[str, ...] = ()
    metric: Literal["accuracy", "f1"] = "accuracy"


class YoloFolders(Spec, frozen=True, tag="yolo", tag_field="kind", kw_only=True):
    """Pictures with YOLO's text files: each folder holds ``images`` and ``labels``.

    Attributes:
        train: Folder of the train split.
        calibration: Folder of the calibration split.
        validation: Folder of the validation split.
        test: Folder of the test split.
        labels: Class names in the order of their numbers.
    """

    train: str
    calibration: str
    validation: str
    test: str
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class CocoFiles(Spec, frozen=True, tag="coco", tag_field="kind", kw_only=True):
    """Pictures with COCO's JSON, a file each split; all must name the same classes.

    Attributes:
        train: File of the train split.
        calibration: File of the calibration split.
        validation: File of the validation split.
        test: File of the test split.
        pictures: Folder that the files' names start from.
    """

    train: str
    calibration: str
    validation: str
    test: str
    pictures: str


class VehicleBoxes(Spec, frozen=True, tag="vehicles", tag_field="kind", kw_only=True):
    """A public set of vehicles that Tierwise cuts by scene and near-duplicate.

    Attributes:
        name: ``traffic-vehicles`` (frames of motorways, one class) or ``emergency-vehicles`` (ambulances and others).
        keep_suspects: Keep pictures whose class is probably wrong.
    """

    name: Literal["traffic-vehicles", "emergency-vehicles"]
    keep_suspects: bool = False


class DetectionTask(Spec, frozen=True, tag="detection", tag_field="kind", kw_only=True):
    """Boxes round things in pictures, by a detector of ours or one that comes as ONNX.

    Attributes:
        data: Where pictures and boxes come from.
        subject: The detector; left out where ``onnx`` is given.
        training: How it is trained; None takes the usual one.
        onnx: A detector's file with one input (pictures); nothing is trained then.
        boxes: How the file's output becomes boxes; needed with ``onnx`` only.
        labels: Class names where they are not those of the data.
        one_class: Count all boxes of the data as class 0.
        pixels: Height and width the model sees; a file's own where it has a fixed size.
        fit: See `tierwise.artifact.ImageInput`.
        order: See `tierwise.artifact.ImageInput`.
        metric: ``map`` (overlaps from 0.5 to 0.95) or ``map50``.
        seed: Root of all randomness.
        train_items: Upper limit of the train split, for quick trials.
    """

    data: YoloFolders | CocoFiles | VehicleBoxes
    subject: FastestDet = FastestDet()
    training: Training | None = None
    onnx: str | None = None
    boxes: Detections | None = None
    labels: tuple[str, ...] = ()
    one_class: bool = False
    pixels: Annotated[int, msgspec.Meta(ge=32, multiple_of=32)] = 352
    fit: Literal["stretch", "letterbox"] = "letterbox"
    order: Literal["rgb", "bgr"] = "bgr"
    metric: Literal["map", "map50"] = "map"
    seed: int = 0
    train_items: Positive | None = None


TaskSpec = BuiltinTask | ModuleTask | OnnxTask | DetectionTask


def task_names() -> tuple[str, ...]:
    """Names of the built-in tasks."""
    return get_args(BuiltinName)
