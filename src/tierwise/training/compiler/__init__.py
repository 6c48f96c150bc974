"""Compiles a training step ahead of time, from a torch model to an artifact. Needs torch; nodes never import it."""

from tierwise.training.compiler._compile import Lesson, compile_task, compile_training
from tierwise.training.compiler._integer import Grid, IntegerModel, quantise
from tierwise.training.compiler._integer_training import (
    IntegerCourse,
    integer_gradients,
    run_integer,
    train_task_in_integers,
)
from tierwise.training.compiler._joint import Joint, capture_step
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._model import Layer, Model, read_model
from tierwise.training.compiler._passes import simplify, update_at_once
from tierwise.training.compiler._reference import Course, run_eager, run_graph
from tierwise.training.compiler._resolve import resolve
from tierwise.training.compiler._split import Part, divide

__all__ = [
    "Course",
    "Grid",
    "IntegerCourse",
    "IntegerModel",
    "Joint",
    "Layer",
    "Lesson",
    "Model",
    "Part",
    "capture_step",
    "compile_task",
    "compile_training",
    "divide",
    "integer_gradients",
    "peak_bytes",
    "quantise",
    "read_model",
    "resolve",
    "run_eager",
    "run_graph",
    "run_integer",
    "simplify",
    "train_task_in_integers",
    "update_at_once",
]
