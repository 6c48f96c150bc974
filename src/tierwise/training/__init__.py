"""Training on a node: a step compiled ahead of time, run with ONNX Runtime, kept safe in checkpoints.

Importing this room brings no torch; what compiles a step is the room's part `tierwise.training.compiler`, which does.
"""

from tierwise.training._adapter import LoRA, merge
from tierwise.training._backend import Backend, BackendName, misfit, open_backend
from tierwise.training._feed import Feed
from tierwise.training._folder import read_folder
from tierwise.training._labels import IGNORED
from tierwise.training._preset import PRESETS, Preset
from tierwise.training._scheme import Scheme, read_scheme
from tierwise.training._session import TrainingSession, plan_of, training_step_of
from tierwise.training._tensor_file import read_tensors
from tierwise.training._text import next_tokens, read_bytes
from tierwise.training._trainer import train_for_node
from tierwise.training._trial import Held, Trace, Trial
from tierwise.training._verify import LARGEST_ERROR, Replay, relative_error

__all__ = [
    "IGNORED",
    "LARGEST_ERROR",
    "PRESETS",
    "Backend",
    "BackendName",
    "Feed",
    "Held",
    "LoRA",
    "Preset",
    "Replay",
    "Scheme",
    "Trace",
    "TrainingSession",
    "Trial",
    "merge",
    "misfit",
    "next_tokens",
    "open_backend",
    "plan_of",
    "read_bytes",
    "read_folder",
    "read_scheme",
    "read_tensors",
    "relative_error",
    "train_for_node",
    "training_step_of",
]
