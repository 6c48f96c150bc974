"""Training on a node: a step compiled ahead of time, run with ONNX Runtime, kept safe in checkpoints.

Importing this room brings no torch; what compiles a step is the room's part `tierwise.training.compiler`, which does.
"""

from tierwise.training._backend import Backend, BackendName, misfit, open_backend
from tierwise.training._feed import Feed
from tierwise.training._folder import read_folder
from tierwise.training._scheme import Scheme, read_scheme
from tierwise.training._session import TrainingSession, plan_of, training_step_of
from tierwise.training._verify import LARGEST_ERROR, Replay, relative_error

__all__ = [
    "LARGEST_ERROR",
    "Backend",
    "BackendName",
    "Feed",
    "Replay",
    "Scheme",
    "TrainingSession",
    "misfit",
    "open_backend",
    "plan_of",
    "read_folder",
    "read_scheme",
    "relative_error",
    "training_step_of",
]
