"""What is deployed: a directory of ONNX segments with a manifest that names and hashes every file. Torch-free."""

from tierwise.artifact._artifact import (
    MANIFEST,
    Artifact,
    open_artifact,
    read_files,
    receive_files,
    record_accuracy,
    write_artifact,
)
from tierwise.artifact._manifest import (
    FORMAT,
    Accuracy,
    Coverage,
    FileEntry,
    ImageInput,
    InputEncoding,
    Manifest,
    NodeAudit,
    Provenance,
    Segment,
    TensorInput,
    TensorSpec,
    TextInput,
)
from tierwise.artifact._preprocess import PAYLOAD_INPUT, Preprocessor, to_payload

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PAYLOAD_INPUT",
    "Accuracy",
    "Artifact",
    "Coverage",
    "FileEntry",
    "ImageInput",
    "InputEncoding",
    "Manifest",
    "NodeAudit",
    "Preprocessor",
    "Provenance",
    "Segment",
    "TensorInput",
    "TensorSpec",
    "TextInput",
    "open_artifact",
    "read_files",
    "receive_files",
    "record_accuracy",
    "to_payload",
    "write_artifact",
]
