"""Compiles a training step ahead of time, from a torch model to an artifact. Needs torch; nodes never import it."""

from tierwise.training.compiler._adapt import adapt
from tierwise.training.compiler._bits import pack_masks
from tierwise.training.compiler._blocks import Block, blocks, computing, reach
from tierwise.training.compiler._channels_last import relay
from tierwise.training.compiler._compare import Comparison, compare, read_comparison
from tierwise.training.compiler._compile import Lesson, compile_task, compile_training, lesson_of
from tierwise.training.compiler._eager import eager_timeline
from tierwise.training.compiler._integer import Grid, IntegerModel, quantise
from tierwise.training.compiler._integer_training import (
    IntegerCourse,
    integer_gradients,
    run_integer,
    train_task_in_integers,
)
from tierwise.training.compiler._joint import Joint, capture_step
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._masks import save_masks
from tierwise.training.compiler._model import Layer, Model, read_model
from tierwise.training.compiler._named import settled
from tierwise.training.compiler._optimised import Planned, plan_graph
from tierwise.training.compiler._order import order_for_memory
from tierwise.training.compiler._passes import simplify
from tierwise.training.compiler._predict import Prediction, predict_step
from tierwise.training.compiler._reference import Course, run_eager, run_graph
from tierwise.training.compiler._resolve import resolve
from tierwise.training.compiler._split import Part, divide
from tierwise.training.compiler._timeline import Moment, Timeline, timeline_of

__all__ = [
    "Block",
    "Comparison",
    "Course",
    "Grid",
    "IntegerCourse",
    "IntegerModel",
    "Joint",
    "Layer",
    "Lesson",
    "Model",
    "Moment",
    "Part",
    "Planned",
    "Prediction",
    "Timeline",
    "adapt",
    "blocks",
    "capture_step",
    "compare",
    "compile_task",
    "compile_training",
    "computing",
    "divide",
    "eager_timeline",
    "integer_gradients",
    "lesson_of",
    "order_for_memory",
    "pack_masks",
    "peak_bytes",
    "plan_graph",
    "predict_step",
    "quantise",
    "reach",
    "read_comparison",
    "read_model",
    "relay",
    "resolve",
    "run_eager",
    "run_graph",
    "run_integer",
    "save_masks",
    "settled",
    "simplify",
    "timeline_of",
    "train_task_in_integers",
]
