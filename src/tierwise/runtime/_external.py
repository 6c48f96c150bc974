"""Which files an ONNX model refers to, read from its bytes without the onnx package.

A tensor may keep its elements in another file, named by a path. A model that came over the network could name any file
of this machine, so the names are checked before ONNX Runtime sees the model.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from tierwise._errors import ArtifactError, InputError
from tierwise.artifact import Artifact
from tierwise.wire import message_fields

__all__ = ["check_external_files"]

# Where tensors lie in a model, by field number (onnx.proto). A subgraph is an attribute's graph.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_DEEPEST: Final = 100


def check_external_files(artifact: Artifact, file: str) -> None:
    """Refuse a segment that keeps tensors outside the artifact.

    Raises:
        ArtifactError: The file is not an ONNX model, or names a file that the manifest does not list.
    """
    path = artifact.path(file)
    if path.stat().st_size == 0:
        raise ArtifactError("a segment must be an ONNX model", got="an empty file", where=path)
    listed = {entry.name for entry in artifact.manifest.files}
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            locations = set(_locations(content, 0, len(content), "model", 0))
        except (InputError, ValueError) as error:
            raise ArtifactError(f"a segment must be an ONNX model ({error})", where=path) from error
    for location in sorted(locations):
        inside = str(PurePosixPath(file).parent / location)
        if inside not in listed or ".." in PurePosixPath(location).parts:
            raise ArtifactError(
                "tensors must lie in the model or in a file that the manifest lists", got=repr(location), where=path
            )


def _locations(content: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError(f"messages may be nested {_DEEPEST} deep")
    children = _CHILDREN[kind]
    for field in message_fields(content, start, end):
        child = children.get(field.number) if field.delimited else None
        if child == "entry":
            parts = {
                part.number: content[part.first : part.end] for part in message_fields(content, field.first, field.end)
            }
            if parts.get(_KEY) == b"location":
                yield parts.get(_VALUE, b"").decode()
        elif child is not None:
            yield from _locations(content, field.first, field.end, child, depth + 1)
