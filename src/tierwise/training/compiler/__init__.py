"""Compiles a training step ahead of time, from a torch model to an artifact. Needs torch; nodes never import it."""

from tierwise.training.compiler._channels_last import relay
from tierwise.training.compiler._compile import Lesson, compile_task, compile_training
from tierwise.training.compiler._joint import Joint, capture_step
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._model import Layer, Model, read_model
from tierwise.training.compiler._passes import simplify, update_at_once
from tierwise.training.compiler._reference import Course, run_eager, run_graph
from tierwise.training.compiler._resolve import resolve
from tierwise.training.compiler._split import Part, divide

__all__ = [
    "Course",
    "Joint",
    "Layer",
    "Lesson",
    "Model",
    "Part",
    "capture_step",
    "compile_task",
    "compile_training",
    "divide",
    "peak_bytes",
    "read_model",
    "relay",
    "resolve",
    "run_eager",
    "run_graph",
    "simplify",
    "update_at_once",
]
