"""The models of a node: received, verified, loaded, replaced and forgotten."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from tierwise._errors import InputError, TierwiseError
from tierwise.artifact import Artifact
from tierwise.runtime._probe import PROBE, Probe
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._served import Served
from tierwise.runtime._shelf import Serving, Shelf
from tierwise.runtime._spec import Share

__all__ = ["Entry", "Repository"]

# A name is a folder's name too.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@|:-]{0,127}")

Model = Served | Probe


@final
@dataclass(frozen=True)
class Entry:
    """A version of the repository: ``ready`` when it is served; ``reason`` says why it is not."""

    name: str
    version: str
    ready: bool
    reason: str = ""


@final
class Repository:
    """Models by name and version. Asking is safe while others load: a name's versions change all at once.

    Every set of files that is received under a name is its next version. The newest is what a request gets that names
    none; how many older ones go on being served is said by the newest one's share. A version that is served no longer
    answers what it had begun. What is served is on disk before it is acknowledged, see `Shelf`.

    Args:
        directory: Where received artifacts are kept.
        keep: Whether an unloaded model's artifact stays, to be loaded again without its files.
        serve: Makes the served model from name, version, artifact and share.
        probe: The built-in model.
        most_models: Models that may be served at once, versions counted, the built-in one not.
        most_bytes: Bytes that the directory may hold; None: what the disk does.
    """

    def __init__(
        self,
        directory: Path,
        keep: bool,
        serve: Callable[[str, str, Artifact, Share], Served],
        probe: Probe,
        most_models: int = 256,
        most_bytes: int | None = None,
    ) -> None:
        self._most_models, self._most_bytes = most_models, most_bytes
        self._directory, self._keep, self._serve = directory, keep, serve
        # By name, then by version with the newest last; a name's dictionary is replaced, never changed.
        self._models: dict[str, dict[str, Model]] = {PROBE: {probe.version: probe}}
        self._broken: dict[str, str] = {}
        self._changing = threading.Lock()

    def model(self, name: str, version: str = "") -> Model:
        """The model served as ``name``: of that version, or the newest.

        Raises:
            RefusalError: There is none, or not of that version.
        """
        versions = self._models.get(name)
        if versions is None:
            served = ", ".join(sorted(self._models))
            raise _not_found(f"the model must be one of {served}", name)
        if not version:
            return versions[next(reversed(versions))]
        model = versions.get(version)
        if model is None:
            raise _not_found(f"the version of model {name!r} must be one of {', '.join(versions)}", version)
        return model

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions served as ``name``, oldest first."""
        return tuple(self._models.get(name, ()))

    def models(self, name: str = "", version: str = "") -> list[Model]:
        """What is served: of one version, of all versions of a name, or all.

        Raises:
            RefusalError: There is none of that name and version.
        """
        if name:
            newest = self.model(name, version)
            return [newest] if version else list(self._models.get(name, {"": newest}).values())
        return [model for _, versions in sorted(self._models.items()) for model in versions.values()]

    def index(self) -> list[Entry]:
        """All versions that are served or could be loaded without files."""
        ready = [Entry(model.name, model.version, True) for model in self.models()]
        idle = sorted(path for path in self._folders() if path.name not in self._models)
        return ready + [
            Entry(path.name, str(version), False, self._broken.get(path.name, "not loaded"))
            for path in idle
            for version in Shelf(path).versions()[-1:]
        ]

    def restore(self) -> dict[str, str]:
        """Serve again what was served when this directory was last used, and delete what was left half done.

        Returns:
            Why, by name, for each model that cannot be served any more.
        """
        with self._changing:
            for folder in self._folders():
                shelf = Shelf(folder)
                try:
                    shelf.tidy()
                    record = shelf.record()
                    served: dict[str, Model] = {
                        version: self._serve(folder.name, version, shelf.open(int(version)), share)
                        for version, share in sorted(record.served.items(), key=lambda item: int(item[0]))
                    }
                except (TierwiseError, RefusalError, OSError, ValueError) as error:
                    self._broken[folder.name] = str(error)
                    continue
                if served:
                    self._models[folder.name] = served
            return dict(self._broken)

    def training_folder(self, name: str, version: str) -> Path:
        """Where the training of a version keeps what it has learnt; deleted with the version."""
        return Shelf(self._directory / name).training(int(version))

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
            RefusalError: No files were given and none were received before; there is no room; or see `Served`.
        """
        if name == PROBE or not _NAME.fullmatch(name):
            raise InputError(
                f"a model's name must be letters, digits and ._+@|:- (at most 128, not {PROBE})", got=repr(name)
            )
        with self._changing:
            shelf = Shelf(self._directory / name)
            self._check_room(name, share, files)
            number, artifact = shelf.receive(files) if files else _last(name, shelf)
            try:
                version = str(number)
                served = self._serve(name, version, artifact, share)
                older = {key: model for key, model in self._models.get(name, {}).items() if key != version}
                kept = list(older.items())[max(0, len(older) + 1 - share.versions) :]
                models = dict(kept) | {version: served}
                shares = {key: model.share for key, model in models.items() if isinstance(model, Served)}
                shelf.write(Serving(kept=tuple(map(int, models)), served=shares))
            except BaseException:
                if files:
                    shelf.drop(number)
                raise
            self._models[name] = models
            self._broken.pop(name, None)
            shelf.tidy()
            return version

    def unload(self, name: str) -> list[str]:
        """Stop serving ``name``, all versions; requests under way are answered.

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
            shelf = Shelf(self._directory / name)
            versions = list(self._models[name])
            if self._keep:
                shelf.write(Serving(kept=(int(versions[-1]),)))
            del self._models[name]
            if self._keep:
                shelf.tidy()
            else:
                shutil.rmtree(shelf.folder, ignore_errors=True)
            return versions

    def _check_room(self, name: str, share: Share, files: Mapping[str, bytes | memoryview]) -> None:
        others = sum(len(versions) for other, versions in self._models.items() if other not in (name, PROBE))
        served = others + min(len(self._models.get(name, ())) + 1, share.versions)
        if served > self._most_models:
            many = InputError(f"a node may serve at most {self._most_models} models", got=served, fix="Unload one")
            raise RefusalError(Code.FULL, many)
        if self._most_bytes is None:
            return
        size = sum(len(content) for content in files.values())
        held = sum(path.stat().st_size for path in self._directory.rglob("*") if path.is_file())
        if held + size > self._most_bytes:
            large = InputError(
                f"the repository may hold at most {self._most_bytes:,} bytes",
                got=f"{held:,} and {size:,} more",
                fix="Unload a model",
            )
            raise RefusalError(Code.FULL, large)

    def _folders(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return [path for path in self._directory.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]


def _last(name: str, shelf: Shelf) -> tuple[int, Artifact]:
    versions = shelf.versions()
    if not versions:
        raise _not_found("a model must come with its files the first time it is loaded", name)
    return versions[-1], shelf.open(versions[-1])


def _not_found(must: str, got: str) -> RefusalError:
    return RefusalError(Code.NOT_FOUND, InputError(must, got=repr(got)))
