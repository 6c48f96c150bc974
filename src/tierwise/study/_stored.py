"""What the store keeps beside the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec

from tierwise._errors import StoreError
from tierwise.artifact import Artifact, Manifest, open_artifact
from tierwise.measure import Environment, Rest
from tierwise.study._answers import Answers
from tierwise.study._results import Strategy

__all__ = ["Prepared", "StoredSession", "StoredTask", "StoredVariant", "open_variant"]


@final
class StoredVariant(msgspec.Struct, frozen=True, kw_only=True):
    """A variant as it was built and examined.

    Attributes:
        key: Name inside the study.
        manifest: Its manifest, accuracy included.
        digest: SHA-256 of that manifest.
        directory: Where the artifact lies, relative to the study.
        artifact_bytes: Bytes of all its files.
        local_predictions: Class of every loaded input when the artifact is run here, without nodes and links; None
            where the first output is no scores.
    """

    key: str
    manifest: Manifest
    digest: str
    directory: str
    artifact_bytes: int
    local_predictions: tuple[int | None, ...]


@final
class StoredTask(msgspec.Struct, frozen=True, kw_only=True):
    """The task a study was prepared with.

    Attributes:
        name: Its name.
        fingerprint: Hash of all that decides its data and weights.
        metric: ``accuracy`` or ``f1``.
        test_items: Items of the test split.
        load_items: Inputs that requests are made of.
    """

    name: str
    fingerprint: str
    metric: str
    test_items: int
    load_items: int


@final
class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session when it was opened.

    Attributes:
        environment: The machine.
        calibration: What the testbed measured of itself (`tierwise.testbed.Calibration` as plain data).
        rest: What the machine drew with the nodes up and nothing asked of them; None where it has no meter.
    """

    environment: Environment
    calibration: dict[str, Any]
    rest: Rest | None = None


@final
@dataclass(frozen=True)
class Prepared:
    """Everything that was built, as the store keeps it.

    Attributes:
        strategies: In the order of the campaign.
        variants: By key.
        answers: To the test items; None where no variant's are known.
    """

    strategies: tuple[Strategy, ...]
    variants: Mapping[str, StoredVariant]
    answers: Answers | None = None


def open_variant(study: Path, directory: str, digest: str) -> Artifact:
    """The artifact of a variant, if it still is what the study examined.

    Args:
        study: The study's directory.
        directory: Where the artifact lies, relative to that or absolute.
        digest: SHA-256 of its manifest when it was examined.

    Raises:
        StoreError: It is another one.
        ArtifactError: There is none, or its files are not those of its manifest.
    """
    artifact = open_artifact(study / directory)
    if artifact.digest != digest:
        raise StoreError(
            f"the artifact must be the one that was examined (manifest sha256 {digest})",
            got=artifact.digest,
            where=artifact.directory,
            fix="Restore it, or start the study anew in another directory",
        )
    return artifact
