"""One model's versions on disk, kept so that a node killed at any point serves again what it served.

``NAME/000000007`` is version 7's artifact; it appears whole (renamed into place) or not at all. ``NAME/serving.json``
says which versions are served, with their shares, and which are kept; it is replaced in one step, after the version was
loaded and before that is acknowledged. Whatever it does not name was never acknowledged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

import msgspec

from tierwise._config import Spec
from tierwise._errors import ArtifactError
from tierwise.artifact import Artifact, open_artifact, receive_files
from tierwise.runtime._spec import Share

__all__ = ["Serving", "Shelf"]

_RECORD: Final = "serving.json"
_TRAINING: Final = "training"


@final
class Serving(Spec, frozen=True, kw_only=True):
    """What a shelf's record says.

    Attributes:
        kept: Versions whose artifacts are kept.
        served: Those that are served, with their shares.
    """

    kept: tuple[int, ...] = ()
    served: dict[str, Share] = msgspec.field(default_factory=dict)


@final
class Shelf:
    """The versions of one model in ``folder``; changed by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self) -> list[int]:
        """Versions that are whole, oldest first."""
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit()) if self._is() else []

    def receive(self, files: Mapping[str, bytes | memoryview]) -> tuple[int, Artifact]:
        """The files as the next version, verified; not yet recorded.

        Raises:
            ArtifactError: As `tierwise.artifact.receive_files`.
        """
        record, present = self.record(), self.versions()
        version = max((*present, *record.kept, *map(int, record.served), 0)) + 1
        try:
            artifact = receive_files(self.path(version), files)
            _sync(artifact.directory)
        except BaseException:
            self.drop(version)
            raise
        return version, artifact

    def open(self, version: int) -> Artifact:
        """The artifact of a version, verified.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        return open_artifact(self.path(version))

    def path(self, version: int) -> Path:
        """Where a version lies."""
        return self.folder / f"{version:09d}"

    def training(self, version: int) -> Path:
        """Where the training of a version keeps what it has learnt."""
        return self.folder / _TRAINING / f"{version:09d}"

    def record(self) -> Serving:
        """What is recorded; a shelf without a record keeps all it has and serves nothing.

        Raises:
            ArtifactError: The record cannot be read.
        """
        try:
            return msgspec.json.decode((self.folder / _RECORD).read_bytes(), type=Serving)
        except FileNotFoundError:
            return Serving(kept=tuple(self.versions()))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArtifactError(
                f"the record of what is served must be readable ({error})",
                where=self.folder / _RECORD,
                fix="Delete it and load the model again",
            ) from error

    def write(self, serving: Serving) -> None:
        """Record what is served and kept, in one step."""
        stage = self.folder / f".{_RECORD}"
        with stage.open("wb") as opened:
            opened.write(msgspec.json.encode(serving))
            opened.flush()
            os.fsync(opened.fileno())
        stage.replace(self.folder / _RECORD)
        _sync_folder(self.folder)

    def drop(self, version: int) -> None:
        """Forget a version that was received and not recorded."""
        shutil.rmtree(self.path(version), ignore_errors=True)
        if self._is() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def tidy(self) -> None:
        """Delete what the record does not name: old versions, and what a killed node left half done."""
        if not self._is():
            return
        kept = {*self.record().kept, *map(int, self.record().served)}
        for path in self.folder.iterdir():
            if path.name.startswith(".") or (path.name.isdigit() and int(path.name) not in kept):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        trained = self.folder / _TRAINING
        for path in trained.iterdir() if trained.is_dir() else ():
            if not path.name.isdigit() or int(path.name) not in kept:
                shutil.rmtree(path, ignore_errors=True)
        if not kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _is(self) -> bool:
        return self.folder.is_dir()


def _sync(folder: Path) -> None:
    """Everything below a folder, and its name, to the disk: a record shall never name what a power cut took."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
