"""Compiles a training step ahead of time, from a torch model to an artifact. Needs torch; nodes never import it."""

from tierwise.training.compiler._adapt import adapt
from tierwise.training.compiler._compare import Comparison, compare, read_comparison
from tierwise.training.compiler._compile import Lesson, compile_task, compile_training
from tierwise.training.compiler._eager import eager_timeline
from tierwise.training.compiler._joint import Joint, capture_step
from tierwise.training.compiler._liveness import peak_bytes
from tierwise.training.compiler._masks import save_masks
from tierwise.training.compiler._model import Layer, Model, read_model
from tierwise.training.compiler._optimised import Planned, plan_graph
from tierwise.training.compiler._order import order_for_memory
from tierwise.training.compiler._passes import simplify
from tierwise.training.compiler._reference import Course, run_eager, run_graph
from tierwise.training.compiler._resolve import resolve
from tierwise.training.compiler._split import Part, divide
from tierwise.training.compiler._timeline import Held, Moment, Timeline, timeline_of

__all__ = [
    "Comparison",
    "Course",
    "Held",
    "Joint",
    "Layer",
    "Lesson",
    "Model",
    "Moment",
    "Part",
    "Planned",
    "Timeline",
    "adapt",
    "capture_step",
    "compare",
    "compile_task",
    "compile_training",
    "divide",
    "eager_timeline",
    "order_for_memory",
    "peak_bytes",
    "plan_graph",
    "read_comparison",
    "read_model",
    "resolve",
    "run_eager",
    "run_graph",
    "save_masks",
    "simplify",
    "timeline_of",
]
