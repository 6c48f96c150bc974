"""An artifact run in this very process: the variant that needs neither node nor link."""

from __future__ import annotations

import time
from pathlib import Path
from typing import final

from tierwise.artifact import Preprocessor, open_artifact
from tierwise.measure import Reply, StageTime
from tierwise.runtime._executor import Executor
from tierwise.runtime._pipeline import CLIENT, Items, payload_of

__all__ = ["InProcess"]


@final
class InProcess:
    """Answers like `Pipeline`, without a node; may be used from several threads.

    Args:
        directory: The artifact's; it is opened and verified.

    Raises:
        ArtifactError: It cannot be opened or run.
        UnavailableError: Its preprocessing needs a library that is not installed.
    """

    def __init__(self, directory: Path) -> None:
        artifact = open_artifact(directory)
        self._encoding = artifact.manifest.input
        self._preprocessor = Preprocessor(self._encoding, artifact.directory)
        self._executor = Executor(artifact)
        self._names = [spec.name for spec in artifact.manifest.outputs]

    def close(self) -> None:
        """Nothing is open."""

    def infer(self, items: Items, timeout_s: float | None = None) -> Reply:
        """See `Pipeline.infer`; computing is not interrupted, so ``timeout_s`` has no effect.

        Raises:
            InputError: The items do not fit the encoding.
            TierwiseError: ONNX Runtime failed.
        """
        times_ns = [time.monotonic_ns()]
        sent = payload_of(self._encoding, items)
        times_ns.append(time.monotonic_ns())
        tensors = self._preprocessor(sent)
        times_ns.append(time.monotonic_ns())
        made = self._executor.run(tensors)
        times_ns.append(time.monotonic_ns())
        names = ("encode", "preprocess", "infer")
        stages = tuple(StageTime(CLIENT, name, (times_ns[i + 1] - times_ns[i]) / 1e9) for i, name in enumerate(names))
        return Reply(outputs={name: made[name] for name in self._names}, stages=stages, path=(CLIENT,))
