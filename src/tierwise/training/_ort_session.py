"""How ONNX Runtime is opened for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tierwise._errors import ArtifactError

__all__ = ["open_session"]


def open_session(path: Path, threads: int) -> Any:
    """A session that flushes denormals: momentum decays into them, where arithmetic is up to a hundred times slower.

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
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        raise ArtifactError(
            f"ONNX Runtime must be able to load the graph ({str(error).splitlines()[0][:300]})", where=path
        ) from error
