"""Folders of a content-addressed store as plain bytes, to travel between machines that share no disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from tierwise._errors import StoreError

__all__ = ["Parcel", "folders_of", "pack", "unpack"]

Parcel = Mapping[str, bytes]
"""Contents by path relative to the store, such as ``stages/NAME/model.onnx``."""


def folders_of(root: Path, kinds: Iterable[str]) -> set[str]:
    """The finished folders of a store, as ``KIND/NAME``; what begins with a dot is still being written."""
    found: set[str] = set()
    for kind in kinds:
        if (root / kind).is_dir():
            found |= {f"{kind}/{path.name}" for path in (root / kind).iterdir() if not path.name.startswith(".")}
    return found


def pack(root: Path, folders: Iterable[str]) -> dict[str, bytes]:
    """All files of some folders."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in sorted(folders)
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def unpack(root: Path, parcel: Parcel) -> None:
    """Write a parcel into a store, each ``KIND/NAME`` in one step; what is there already stays, it holds the same.

    Raises:
        StoreError: A path leaves the store, or a file cannot be written.
    """
    folders: dict[str, dict[str, bytes]] = {}
    for name, content in parcel.items():
        parts = PurePosixPath(name).parts
        if len(parts) < 3 or ".." in parts or parts[0].startswith("/"):
            raise StoreError("a path of a parcel must be KIND/NAME/FILE", got=repr(name))
        folders.setdefault("/".join(parts[:2]), {})["/".join(parts[2:])] = content
    for folder, files in folders.items():
        missing = {name: content for name, content in files.items() if not (root / folder / name).exists()}
        if missing:
            _write(root / folder, missing)


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{os.getpid()}-", dir=target.parent))
    except OSError as error:
        raise StoreError(f"the store must be writable ({error.strerror})", where=target.parent) from error
    try:
        for name, content in files.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_bytes(content)
        stage.chmod(0o755)
        try:
            stage.rename(target)
        except OSError:
            # A part of it was there, or another process has just brought it.
            for name in files:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / name).replace(target / name)
    except OSError as error:
        raise StoreError(f"the store must be writable ({error.strerror})", where=target) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
