"""The artifact on disk: written whole or not at all, verified whenever it is opened."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec

from tierwise._errors import ArtifactError, TamperedError
from tierwise.artifact._manifest import FORMAT, Accuracy, Boundary, FileEntry, Manifest, TextInput
from tierwise.artifact._training_step import TrainingStep

__all__ = [
    "MANIFEST",
    "SIGNATURE",
    "Artifact",
    "open_artifact",
    "read_files",
    "receive_files",
    "record_accuracy",
    "record_rates",
    "write_artifact",
]

MANIFEST = "manifest.json"

SIGNATURE: Final = "signature.json"
"""Signatures over the manifest, where there are any; the one file beside it that it does not list."""

# Names come from strangers and become paths: on any file system, and for libraries that give some characters a meaning
# of their own, a name of these is a plain file inside the artifact.
_PART: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+=@ -]{0,98}[A-Za-z0-9_+=@-])?")
_DEEPEST: Final = 8
_LONGEST: Final = 200
_MOST_FILES: Final = 1000
# Newer Linux keeps what is written at once in large pieces of its cache, and maps all of a piece where a byte is read:
# of a file of embeddings, far more than the rows that a text needs.
_PIECE_BYTES: Final = 64 << 10


@final
@dataclass(frozen=True)
class Artifact:
    """A verified directory of segments.

    Attributes:
        directory: Where it lies.
        manifest: What it is.
        digest: SHA-256 of the manifest's bytes; since the manifest holds the hash of every file, it names the content.
    """

    directory: Path
    manifest: Manifest
    digest: str

    def path(self, name: str) -> Path:
        """The file ``name`` of the artifact (not checked to exist)."""
        return self.directory / name

    @property
    def nbytes(self) -> int:
        """Bytes of all its files beside the manifest."""
        return sum(entry.bytes for entry in self.manifest.files)


def open_artifact(directory: Path) -> Artifact:
    """Open and verify an artifact.

    Raises:
        ArtifactError: No manifest, a manifest that is not valid or of a format this release cannot read, a file missing
            or one too many.
        TamperedError: A file's size or hash is not what the manifest says (both are in the message).
    """
    try:
        raw = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"an artifact must hold a readable {MANIFEST} ({error.strerror})",
            where=directory,
            fix="Give the directory that `tierwise study run` wrote under artifacts/",
        ) from error
    manifest = _decode(raw, directory)
    for entry in manifest.files:
        _verify(directory, entry)
    return Artifact(directory, manifest, hashlib.sha256(raw).hexdigest())


def write_artifact(directory: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Artifact:
    """Write a new artifact in one step: readers see all of it or nothing.

    Args:
        directory: Where it shall lie; must not exist.
        manifest: What it is; its ``files`` are filled in here.
        files: Content, or a path to copy from, by file name inside the artifact.

    Raises:
        ArtifactError: The directory exists, a name leaves the directory, or a segment's file is not among ``files``.
    """
    missing = [segment.file for segment in manifest.segments if segment.file not in files]
    if missing:
        raise ArtifactError("every segment's file must be given", got=f"no {missing[0]!r}", where=directory)
    _check_names(sorted(files), directory)
    with _staged(directory) as stage:
        entries = tuple(_put(stage, name, content) for name, content in sorted(files.items()))
        manifest = msgspec.structs.replace(manifest, files=entries, format=FORMAT)
        (stage / MANIFEST).write_bytes(_encode(manifest))
    return open_artifact(directory)


def read_files(artifact: Artifact) -> dict[str, bytes]:
    """Manifest, signatures and all files, to be pushed to a node."""
    names = [MANIFEST, *(entry.name for entry in artifact.manifest.files)]
    if artifact.path(SIGNATURE).is_file():
        names.append(SIGNATURE)
    return {name: artifact.path(name).read_bytes() for name in names}


def receive_files(directory: Path, files: Mapping[str, bytes | memoryview]) -> Artifact:
    """Write what `read_files` gave on another machine; the inverse, verified before anything is visible.

    Raises:
        ArtifactError: No manifest among the files, a name that could leave the directory or be another file's, or the
            directory exists.
        TamperedError: A file is not what the manifest says.
    """
    if MANIFEST not in files:
        raise ArtifactError(f"the files of an artifact must include {MANIFEST}", got=sorted(files), where=directory)
    manifest = _decode(files[MANIFEST], directory)
    listed = {entry.name for entry in manifest.files}
    extra = sorted(set(files) - listed - {MANIFEST, SIGNATURE})
    if extra:
        raise ArtifactError("every file must be listed in the manifest", got=repr(extra[0]), where=directory)
    with _staged(directory) as stage:
        for entry in manifest.files:
            if entry.name not in files:
                raise ArtifactError(f"the file {entry.name!r} of the manifest must be sent too", where=directory)
            _put(stage, entry.name, files[entry.name])
            _verify(stage, entry)
        for name in {MANIFEST, SIGNATURE} & set(files):
            (stage / name).write_bytes(files[name])
    return open_artifact(directory)


def record_accuracy(artifact: Artifact, accuracy: Accuracy) -> Artifact:
    """The artifact with one more accuracy in its manifest (one per metric and split; a later one replaces it).

    Signatures it had are gone: they were for the manifest as it was.
    """
    kept = [a for a in artifact.manifest.accuracy if (a.metric, a.split) != (accuracy.metric, accuracy.split)]
    return _rewritten(artifact, msgspec.structs.replace(artifact.manifest, accuracy=(*kept, accuracy)))


def record_rates(artifact: Artifact, test: Mapping[int, float]) -> Artifact:
    """The artifact with the test split's value of each rate of a coded latent in its manifest.

    Args:
        artifact: Signatures it had are gone, as with `record_accuracy`.
        test: Value by number of channels.
    """
    segments = tuple(
        segment
        if segment.boundary is None
        else msgspec.structs.replace(segment, boundary=_with_test(segment.boundary, test))
        for segment in artifact.manifest.segments
    )
    return _rewritten(artifact, msgspec.structs.replace(artifact.manifest, segments=segments))


def _with_test(boundary: Boundary, test: Mapping[int, float]) -> Boundary:
    rates = (
        msgspec.structs.replace(rate, test=test[rate.channels]) if rate.channels in test else rate
        for rate in boundary.rates
    )
    return msgspec.structs.replace(boundary, rates=tuple(rates))


def _rewritten(artifact: Artifact, manifest: Manifest) -> Artifact:
    stage = artifact.directory / f".{MANIFEST}.{os.getpid()}"
    stage.write_bytes(_encode(manifest))
    stage.replace(artifact.directory / MANIFEST)
    artifact.path(SIGNATURE).unlink(missing_ok=True)
    return open_artifact(artifact.directory)


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"


def _decode(raw: bytes | memoryview, directory: Path) -> Manifest:
    where = directory / MANIFEST
    try:
        header = msgspec.json.decode(raw)
        version = header.get("format") if isinstance(header, dict) else None
        if version != FORMAT:
            raise ArtifactError(
                f"this release reads manifest format {FORMAT}",
                got=f"format {version}",
                where=where,
                fix="Build the artifact again with this release, or use the release that wrote it",
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"the manifest must be valid ({error})", where=where) from error
    _check_names([entry.name for entry in manifest.files], directory)
    listed = {entry.name for entry in manifest.files}
    unlisted = [segment.file for segment in manifest.segments if segment.file not in listed]
    if isinstance(manifest.input, TextInput) and manifest.input.tokenizer not in listed:
        unlisted.append(manifest.input.tokenizer)
    if isinstance(manifest.training, TrainingStep):
        unlisted += [file for file in manifest.training.files if file not in listed]
    if unlisted:
        raise ArtifactError(
            "the files of segments, tokenizer and training must be listed in the manifest",
            got=repr(unlisted[0]),
            where=where,
        )
    return manifest


def _check_names(names: Sequence[str], directory: Path) -> None:
    """Each name is a plain file inside the artifact, on any file system, and no two are the same one."""
    if len(names) > _MOST_FILES:
        raise ArtifactError(f"an artifact may have at most {_MOST_FILES} files", got=len(names), where=directory)
    seen: dict[str, str] = {}
    for name in names:
        _check_name(name, directory)
        # Not every file system tells upper from lower case.
        if name.lower() in seen:
            raise ArtifactError(
                "a file must be named once, case aside", got=f"{seen[name.lower()]!r} and {name!r}", where=directory
            )
        seen[name.lower()] = name
    for name in seen:
        parts = name.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in seen:
                raise ArtifactError("a file cannot be a folder too", got=repr(seen[name]), where=directory)


def _check_name(name: str, directory: Path) -> None:
    parts = name.split("/")
    inside = len(name) <= _LONGEST and len(parts) <= _DEEPEST and all(_PART.fullmatch(part) for part in parts)
    if not inside or name.lower() in (MANIFEST, SIGNATURE):
        raise ArtifactError(
            f"a file name must stay inside the artifact: parts of letters, digits and ._+=@ -, at most {_LONGEST} "
            f"characters, neither {MANIFEST} nor {SIGNATURE}",
            got=repr(name[: 2 * _LONGEST]),
            where=directory,
        )


def _put(stage: Path, name: str, content: bytes | memoryview | Path) -> FileEntry:
    target = stage / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, target)
    else:
        whole = memoryview(content).cast("B")
        with target.open("wb") as file:
            for first in range(0, len(whole), _PIECE_BYTES):
                file.write(whole[first : first + _PIECE_BYTES])
    return FileEntry(name=name, bytes=target.stat().st_size, sha256=_sha256(target))


def _verify(directory: Path, entry: FileEntry) -> None:
    path = directory / entry.name
    if path.is_symlink() or not path.is_file():
        raise ArtifactError("the file named in the manifest must exist as a plain file", where=path)
    size, digest = path.stat().st_size, _sha256(path)
    if size != entry.bytes or digest != entry.sha256:
        raise TamperedError(
            f"the content must be what the manifest says ({entry.bytes} bytes, sha256 {entry.sha256})",
            got=f"{size} bytes, sha256 {digest}",
            where=path,
            fix="Copy or build the artifact again; it was changed or cut short after it was written",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _staged(directory: Path) -> Iterator[Path]:
    """A folder beside ``directory`` that takes its place when the block ends well and vanishes when it does not."""
    if directory.exists():
        raise ArtifactError("the directory of a new artifact must not exist", where=directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield stage
        stage.chmod(0o755)
        try:
            stage.rename(directory)
        except OSError as error:
            # Another process built the same artifact first. Ours is discarded by the clean-up below.
            raise ArtifactError(f"the directory must not appear meanwhile ({error})", where=directory) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
