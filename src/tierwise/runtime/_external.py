"""What an ONNX model refers to beside itself, read from its bytes without the onnx package.

A tensor may keep its elements in another file, named by a path. A model that came over the network could name any file
of this machine, so the names are checked before ONNX Runtime sees the model. An operator may be of a domain that some
library on this machine brings: a node runs none but ONNX Runtime's own.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from tierwise._errors import ArtifactError, InputError
from tierwise.artifact import Artifact
from tierwise.wire import message_fields

__all__ = ["check_contents"]

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
# Domains by field number: of an operator that is used, and of a function that the model itself defines.
_USED: Final = {"node": 7}
_DEFINED: Final = {"function": 10}
_KEY, _VALUE = 1, 2
# "" is ONNX's own; the others are the operators that ONNX Runtime itself has.
_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_DEEPEST: Final = 100


def check_contents(artifact: Artifact, file: str) -> None:
    """Refuse a segment that keeps tensors outside the artifact, or uses operators that ONNX Runtime does not have.

    Raises:
        ArtifactError: The file is not an ONNX model, names a file that the manifest does not list, or uses an operator
            of a domain that is neither ONNX Runtime's nor defined by a function of the model.
    """
    path = artifact.path(file)
    if path.stat().st_size == 0:
        raise ArtifactError("a segment must be an ONNX model", got="an empty file", where=path)
    listed = {entry.name for entry in artifact.manifest.files}
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            found = set(_references(content, 0, len(content), "model", 0))
        except (InputError, ValueError) as error:
            raise ArtifactError(f"a segment must be an ONNX model ({error})", where=path) from error
    texts = {kind: sorted(text for told, text in found if told == kind) for kind in ("location", "used", "defined")}
    foreign = [domain for domain in texts["used"] if domain not in _DOMAINS and domain not in texts["defined"]]
    if foreign:
        raise ArtifactError(
            "operators must be ONNX Runtime's own: a node loads no libraries of others",
            got=f"the domain {foreign[0][:200]!r}",
            where=path,
        )
    for location in texts["location"]:
        inside = str(PurePosixPath(file).parent / location)
        if inside not in listed or ".." in PurePosixPath(location).parts:
            raise ArtifactError(
                "tensors must lie in the model or in a file that the manifest lists", got=repr(location), where=path
            )


def _references(content: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[tuple[str, str]]:
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
                yield "location", parts.get(_VALUE, b"").decode()
        elif child is not None:
            yield from _references(content, field.first, field.end, child, depth + 1)
        elif field.delimited and field.number == _USED.get(kind):
            yield "used", content[field.first : field.end].decode()
        elif field.delimited and field.number == _DEFINED.get(kind):
            yield "defined", content[field.first : field.end].decode()
