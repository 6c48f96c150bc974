"""Imported evidence on the disk: JSON for what is said, NumPy arrays for what was measured. Never pickle."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Literal, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, StoreError
from tierwise.measure import Samples
from tierwise.planner import Deployment, Evidence, Judged, LinkFigures, Subject
from tierwise.study._evidence import evidence_of
from tierwise.study._read import load_study
from tierwise.study._store import DATABASE

__all__ = ["EVIDENCE", "is_import", "load_evidence", "write_evidence"]

EVIDENCE = "evidence.json"
_ARRAYS = "samples.npz"
_FORMAT = 1


@final
class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies in the JSON file.

    Deployment i has the arrays ``latency_i`` and ``block_i``; where ``variants`` names what answered its test items,
    also ``predicted_i`` and ``labels_i``.
    """

    format: int
    name: str
    source: Literal["study", "import"]
    subjects: tuple[Subject, ...]
    deployments: tuple[Deployment, ...]
    links: tuple[LinkFigures, ...]
    notes: tuple[str, ...]
    variants: dict[int, str] = {}


def write_evidence(directory: Path, evidence: Evidence) -> Path:
    """Write evidence into a new directory, all or nothing.

    Args:
        directory: Must not exist, or be empty.
        evidence: What to write.

    Returns:
        The directory.

    Raises:
        StoreError: It exists and holds something, or cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise StoreError(
            "an import needs a directory that does not exist yet",
            where=directory,
            fix="Name another with --out, or remove this one",
        )
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    variants: dict[int, str] = {}
    for i, deployment in enumerate(evidence.deployments):
        samples = evidence.samples[deployment.key]
        arrays[f"latency_{i}"], arrays[f"block_{i}"] = samples.latency_s, samples.block
        judged = evidence.judged.get(deployment.key)
        if judged is not None:
            arrays[f"predicted_{i}"], arrays[f"labels_{i}"] = judged.predicted, judged.labels
            variants[i] = judged.variant
    stored = _Stored(
        format=_FORMAT,
        name=evidence.name,
        source=evidence.source,
        subjects=evidence.subjects,
        deployments=evidence.deployments,
        links=evidence.links,
        notes=evidence.notes,
        variants=variants,
    )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise StoreError(f"the directory must be writable ({error.strerror})", where=directory.parent) from error
    try:
        with (unfinished / _ARRAYS).open("wb") as file:
            # By name and not as **arrays: the type checker takes those for the options of savez.
            _save(file, arrays)
        _flushed(unfinished / EVIDENCE, msgspec.json.format(msgspec.json.encode(stored), indent=1))
        unfinished.chmod(0o755)
        unfinished.rename(directory)
    except OSError as error:
        raise StoreError(f"the directory must be writable ({error.strerror})", where=directory) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def is_import(directory: Path) -> bool:
    """Whether a directory holds an import, and not a study that was run here."""
    return (directory / EVIDENCE).exists()


def load_evidence(directory: Path) -> Evidence:
    """Evidence from a directory: of an import, or of a study that was run here.

    Raises:
        StoreError: Neither, or what lies there cannot be read.
    """
    if is_import(directory):
        return _read(directory)
    if (directory / DATABASE).exists():
        return evidence_of(load_study(directory))
    raise StoreError(
        f"the directory must hold a study ({DATABASE}) or an import ({EVIDENCE})",
        where=directory,
        fix="Give the directory that `tierwise study run` or `tierwise study import` wrote",
    )


def _read(directory: Path) -> Evidence:
    try:
        stored = msgspec.json.decode((directory / EVIDENCE).read_bytes(), type=_Stored)
        if stored.format != _FORMAT:
            raise StoreError(
                f"this release reads imports of version {_FORMAT}", got=f"version {stored.format}", where=directory
            )
        samples, judged = {}, {}
        # Opened here: NumPy leaves a damaged file open.
        with (directory / _ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for i, deployment in enumerate(stored.deployments):
                samples[deployment.key] = Samples(arrays[f"latency_{i}"], arrays[f"block_{i}"])
                if i in stored.variants:
                    judged[deployment.key] = Judged(stored.variants[i], arrays[f"predicted_{i}"], arrays[f"labels_{i}"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, InputError, msgspec.DecodeError) as error:
        raise StoreError(
            f"an import must be readable ({error})", where=directory, fix="Import the files again into a new directory"
        ) from error
    return Evidence(
        name=stored.name,
        source=stored.source,
        subjects=stored.subjects,
        deployments=stored.deployments,
        links=stored.links,
        samples=samples,
        judged=judged,
        notes=stored.notes,
    )


def _save(file: object, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]


def _flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
