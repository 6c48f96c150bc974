"""The models of a node: received, verified, loaded, replaced and forgotten."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from tierwise._errors import InputError
from tierwise.artifact import Artifact, open_artifact, receive_files
from tierwise.runtime._probe import PROBE, Probe
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._served import Served
from tierwise.runtime._spec import Share

__all__ = ["Entry", "Repository"]

# A name is a folder's name too.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@|:-]{0,127}")


@final
@dataclass(frozen=True)
class Entry:
    """A model of the repository: ``ready`` when it is served; ``reason`` says why it is not."""

    name: str
    version: str
    ready: bool
    reason: str = ""


@final
class Repository:
    """Models by name. Asking is safe while others load: a name changes from the old model to the new one at once.

    Artifacts lie in ``directory/NAME/NUMBER``; the highest number is what was received last.

    Args:
        directory: Where received artifacts are kept.
        keep: Whether an unloaded model's artifact stays, to be loaded again without its files.
        serve: Makes the served model from name, version, artifact and share.
        probe: The built-in model.
    """

    def __init__(
        self, directory: Path, keep: bool, serve: Callable[[str, str, Artifact, Share], Served], probe: Probe
    ) -> None:
        self._directory, self._keep, self._serve = directory, keep, serve
        self._models: dict[str, Served | Probe] = {PROBE: probe}
        self._changing = threading.Lock()

    def model(self, name: str, version: str = "") -> Served | Probe:
        """The model served as ``name``.

        Raises:
            RefusalError: There is none, or not of that version.
        """
        model = self._models.get(name)
        if model is None:
            served = ", ".join(sorted(self._models))
            raise _not_found(f"the model must be one of {served}", name)
        if version not in ("", "1"):
            raise _not_found(f"the version of model {name!r} must be '1'", version)
        return model

    def models(self, name: str = "", version: str = "") -> list[Served | Probe]:
        """What is served: of one version, of all versions of a name, or all.

        Raises:
            RefusalError: There is none of that name and version.
        """
        if name:
            return [self.model(name, version)]
        return [model for _, model in sorted(self._models.items())]

    def index(self) -> list[Entry]:
        """All models that are served or could be loaded without files."""
        ready = [Entry(model.name, model.version, True) for model in self.models()]
        if not self._directory.is_dir():
            return ready
        idle = sorted(path.name for path in self._directory.iterdir() if path.name not in self._models)
        return ready + [Entry(name, "1", False, "not loaded") for name in idle if _NAME.fullmatch(name)]

    def load(self, name: str, share: Share, files: Mapping[str, bytes | memoryview]) -> str:
        """Serve an artifact as ``name``; what was served under it stays until the new one is ready, or if it fails.

        Args:
            name: The name.
            share: Which part of the artifact this node runs.
            files: The artifact's files; empty: the artifact that was last received under this name.

        Returns:
            The version that is served now.

        Raises:
            InputError: The name cannot be used, or the share does not fit the artifact.
            ArtifactError: The files are not an artifact, or one that cannot be run.
            RefusalError: No files were given and none were received before; or see `Served`.
        """
        if name == PROBE or not _NAME.fullmatch(name):
            raise InputError(
                f"a model's name must be letters, digits and ._+@|:- (at most 128, not {PROBE})", got=repr(name)
            )
        with self._changing:
            folder = self._directory / name
            artifact = _receive(folder, files) if files else _received(name, folder)
            try:
                self._models[name] = self._serve(name, "1", artifact, share)
            except BaseException:
                if files:
                    _forget(folder, artifact.directory)
                raise
            for old in _versions(folder):
                if old != artifact.directory:
                    _forget(folder, old)
            return "1"

    def unload(self, name: str) -> list[str]:
        """Stop serving ``name``; requests under way are answered.

        Returns:
            The versions that were served.

        Raises:
            InputError: It is the built-in model.
            RefusalError: It is not served.
        """
        if name == PROBE:
            raise InputError("the built-in model cannot be unloaded", where=name)
        with self._changing:
            self.model(name)
            del self._models[name]
            if not self._keep:
                shutil.rmtree(self._directory / name, ignore_errors=True)
            return ["1"]


def _versions(folder: Path) -> list[Path]:
    """What was received under one name, the oldest first (what a killed node left half written is not among it)."""
    return sorted(path for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def _receive(folder: Path, files: Mapping[str, bytes | memoryview]) -> Artifact:
    """The files on disk, verified, beside what was received before."""
    versions = _versions(folder)
    target = folder / f"{int(versions[-1].name) + 1 if versions else 0:09d}"
    try:
        return receive_files(target, files)
    except BaseException:
        _forget(folder, target)
        raise


def _received(name: str, folder: Path) -> Artifact:
    versions = _versions(folder)
    if not versions:
        raise _not_found("a model must come with its files the first time it is loaded", name)
    return open_artifact(versions[-1])


def _forget(folder: Path, version: Path) -> None:
    shutil.rmtree(version, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _not_found(must: str, got: str) -> RefusalError:
    return RefusalError(Code.NOT_FOUND, InputError(must, got=repr(got)))
