"""What is to be deployed: data sets with their splits, subject models, metrics; a user's own by ``module:function``.

Importing this room brings no torch; building or training a model does.
"""

from tierwise.tasks._box_labels import box_labels
from tierwise.tasks._box_scores import BoxScores, MapDifference, map_difference
from tierwise.tasks._llama_spec import Llama
from tierwise.tasks._load import load_task
from tierwise.tasks._picture_spec import DenseNet, Inception, MobileNetV2
from tierwise.tasks._spec import (
    Bert,
    BuiltinTask,
    CocoFiles,
    DetectionTask,
    FastestDet,
    FullSize,
    ModuleTask,
    OnnxTask,
    ResNet,
    ResNeXt,
    Roberta,
    Subject,
    TaskSpec,
    Training,
    VehicleBoxes,
    YoloFolders,
    task_names,
)
from tierwise.tasks._start import started
from tierwise.tasks._subject import build_decoder, build_subject
from tierwise.tasks._task import SPLITS, Item, LazySplits, Metric, Split, Task, item_digest, score, score_classes
from tierwise.tasks._tuning import Tuned, answer, build_student, fine_tune, settled, task_loss
from tierwise.tasks._unlabelled import Unlabelled, hashed, with_unlabelled

__all__ = [
    "SPLITS",
    "Bert",
    "BoxScores",
    "BuiltinTask",
    "CocoFiles",
    "DenseNet",
    "DetectionTask",
    "FastestDet",
    "FullSize",
    "Inception",
    "Item",
    "LazySplits",
    "Llama",
    "MapDifference",
    "Metric",
    "MobileNetV2",
    "ModuleTask",
    "OnnxTask",
    "ResNeXt",
    "ResNet",
    "Roberta",
    "Split",
    "Subject",
    "Task",
    "TaskSpec",
    "Training",
    "Tuned",
    "Unlabelled",
    "VehicleBoxes",
    "YoloFolders",
    "answer",
    "box_labels",
    "build_decoder",
    "build_student",
    "build_subject",
    "fine_tune",
    "hashed",
    "item_digest",
    "load_task",
    "map_difference",
    "score",
    "score_classes",
    "settled",
    "started",
    "task_loss",
    "task_names",
    "with_unlabelled",
]
