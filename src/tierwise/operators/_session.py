"""Models run in this process while operators work on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tierwise.measure import usable_cpus
from tierwise.tasks import Task

__all__ = ["answers", "free_batch", "open_session", "validation_score"]

_BATCH = 64


def open_session(model: onnx.ModelProto) -> Any:
    """A session of ONNX Runtime on the CPUs this process may use."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, math.floor(usable_cpus()))
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(model: onnx.ModelProto, task: Task, split: str, items: int | None = None) -> dict[str, npt.NDArray[Any]]:
    """All outputs of ``model`` for the first ``items`` of a split (None: all), by name."""
    session = open_session(model)
    names = [value.name for value in session.get_outputs()]
    size = _BATCH if free_batch(model) else 1
    chosen = task.splits[split] if items is None else task.splits[split].head(items)
    parts = [
        session.run(names, task.tensors(chosen.items[start : start + size])) for start in range(0, len(chosen), size)
    ]
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}


def validation_score(model: onnx.ModelProto, task: Task) -> float:
    """The task's metric of the model's first output on the validation split."""
    raw = answers(model, task, "validation")[model.graph.output[0].name]
    return task.score(raw, task.splits["validation"].labels)


def free_batch(model: onnx.ModelProto) -> bool:
    """Whether the model takes any batch."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return bool(dims) and dims[0].dim_value <= 0
