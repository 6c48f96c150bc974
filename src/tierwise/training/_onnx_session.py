"""Sessions of ONNX Runtime as training needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tierwise._errors import ArtifactError
from tierwise.training._frozen import Frozen

__all__ = ["open_session"]


def open_session(
    path: Path, threads: int, *, planned: bool = False, exactly: bool = False, frozen: Frozen | None = None
) -> Any:
    """A session that flushes denormals: momentum decays into them, where arithmetic is up to a hundred times slower.

    Args:
        path: Of the graph.
        threads: Of one operator.
        planned: The nodes stand in the order in which they need least memory: run them so, give every buffer back
            behind its last reader, and keep none for the next step.
        exactly: Run the nodes as they are; layouts of this processor would be faster, in an order of their own.
        frozen: Weights of the graph that are read where they lie, and not copied into an order of the kernels' own;
            must live as long as the session. None: ONNX Runtime reads and copies them.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(key, "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if planned:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # of what can run, what stands first in the file
        options.enable_cpu_mem_arena = options.enable_mem_pattern = options.enable_mem_reuse = False
    if frozen is not None:
        options.add_session_config_entry("session.disable_prepacking", "1")
        for name, value in frozen.values.items():
            options.add_initializer(name, value)
    if exactly:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        raise ArtifactError(
            f"ONNX Runtime must be able to load the graph ({str(error).splitlines()[0][:300]})", where=path
        ) from error
