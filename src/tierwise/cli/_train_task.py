"""The task that a training is for, as written on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tierwise.tasks import TaskSpec

__all__ = ["TASK_HELP", "read_task"]

TASK_HELP = """\b
TASK is the name of a built-in task or a .toml file with the fields of a campaign's [task] (`tierwise tasks`):
  kind = "builtin"
  name = "cifar10-jpeg"
  subject = { family = "resnet", depth = 20, width = 16, start = "cifar10" }
  training = { epochs = 0 }
"""


def read_task(text: str) -> TaskSpec:
    """A built-in task by its name, or any by a file.

    Raises:
        SpecError: There is no task of that name, or the file is not one.
    """
    from tierwise._config import convert, load_toml
    from tierwise.tasks import BuiltinTask, TaskSpec

    if text.endswith(".toml"):
        return load_toml(Path(text), TaskSpec)  # type: ignore[arg-type]  # a union is no type to the checker
    return convert({"kind": "builtin", "name": text}, BuiltinTask, where=f"task {text}")
