"""A file that is written as a whole: a reader, or a kill at any moment, sees the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Write ``path`` anew: content to a file beside it, to the disk, then renamed over it, and the folder to the disk.

    Args:
        path: The file; its folder is made where it is missing.
        content: What it shall hold.
    """
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with stage.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        stage.replace(path)
    finally:
        stage.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
