"""Compiles a training step ahead of time, from a torch model to an artifact. Needs torch; nodes never import it."""

from tierwise.training.compiler._blocks import Block, blocks, computing, reach
from tierwise.training.compiler._compile import Lesson, compile_task, compile_training, lesson_of
from tierwise.training.compiler._joint import Joint, capture_step
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._model import Layer, Model, read_model
from tierwise.training.compiler._named import settled
from tierwise.training.compiler._passes import simplify, update_at_once
from tierwise.training.compiler._predict import Prediction, predict_step
from tierwise.training.compiler._reference import Course, run_eager, run_graph
from tierwise.training.compiler._resolve import resolve
from tierwise.training.compiler._split import Part, divide

__all__ = [
    "Block",
    "Course",
    "Joint",
    "Layer",
    "Lesson",
    "Model",
    "Part",
    "Prediction",
    "blocks",
    "capture_step",
    "compile_task",
    "compile_training",
    "computing",
    "divide",
    "lesson_of",
    "peak_bytes",
    "predict_step",
    "reach",
    "read_model",
    "resolve",
    "run_eager",
    "run_graph",
    "settled",
    "simplify",
    "update_at_once",
]
