"""From a spec to a task. What is heavy is imported when it is needed."""

from __future__ import annotations

from pathlib import Path

from tierwise.measure import Progress, Silent
from tierwise.tasks._spec import BuiltinTask, DetectionTask, ModuleTask, OnnxTask, TaskSpec
from tierwise.tasks._task import Task

__all__ = ["load_task"]


def load_task(spec: TaskSpec, cache: Path, progress: Progress | None = None, *, threads: int | None = None) -> Task:
    """The task that a spec asks for. Equal specs give equal fingerprints.

    Pictures are read at the first access to a split, and a built-in model is trained at the first call of `Task.model`
    (its weights are kept in ``cache``, and a training that was stopped goes on). A text task reads its train split
    here, to learn its tokeniser. A user's function is called here, and what it returns is checked.

    Args:
        spec: What is asked for.
        cache: Folder for downloads, tokenisers and weights; made where missing.
        progress: Shows long steps.
        threads: Threads of torch while a built-in model is trained; where None, as many as this process really has CPUs
            (one for pictures so small that threads would mostly wait for each other).

    Raises:
        SpecError: A subject that does not fit the data set, or a file or function of the user's that is not there.
        InputError: A user's function returned something that is not a task; the message names the field.
        UnavailableError: The data can be had neither from ``$TIERWISE_DATA`` nor by download, or a library is missing.
    """
    progress = progress if progress is not None else Silent()
    match spec:
        case BuiltinTask():
            from tierwise.tasks._builtin import builtin_task

            return builtin_task(spec, cache, progress, threads)
        case ModuleTask():
            from tierwise.tasks._brought import module_task

            return module_task(spec, progress)
        case DetectionTask():
            from tierwise.tasks._detection import detection_task

            return detection_task(spec, cache, progress, threads)
        case OnnxTask():
            from tierwise.tasks._brought import onnx_task

            return onnx_task(spec, progress)
