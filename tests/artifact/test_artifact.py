import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise._errors import ArtifactError, TamperedError
from tierwise.artifact import (
    Accuracy,
    Artifact,
    ImageInput,
    Manifest,
    Provenance,
    Segment,
    TensorSpec,
    open_artifact,
    read_files,
    receive_files,
    record_accuracy,
    write_artifact,
)

MANIFEST = Manifest(
    name="tiny",
    input=ImageInput(encoding="png", height=8, width=8, channels=1, mean=(0.5,), std=(0.25,)),
    outputs=(TensorSpec(name="logits", dtype="FP32", shape=(-1, 10)),),
    labels=tuple("0123456789"),
    segments=(
        Segment(
            file="segments/0.onnx",
            inputs=(TensorSpec(name="input", dtype="FP32", shape=(-1, 1, 8, 8)),),
            outputs=(TensorSpec(name="logits", dtype="FP32", shape=(-1, 10)),),
            macs=640,
        ),
    ),
    files=(),
    provenance=Provenance(task="t", task_fingerprint="f", chain="identity", specs=({"op": "identity"},), versions={}),
)
FILES = {"segments/0.onnx": b"not really onnx, but bytes are bytes here", "labels.txt": b"x"}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_artifact(tmp_path / "a", MANIFEST, FILES)


def test_what_is_written_is_what_is_opened(artifact: Artifact) -> None:
    again = open_artifact(artifact.directory)
    assert again == artifact
    assert again.manifest.segments == MANIFEST.segments
    assert again.nbytes == sum(map(len, FILES.values()))
    assert [f.name for f in again.manifest.files] == sorted(FILES)


def test_the_manifest_bytes_are_frozen(tmp_path: Path) -> None:
    """A change here is a change of the file format: bump FORMAT and keep reading or refuse the old one by name."""
    artifact = write_artifact(tmp_path / "a", MANIFEST, FILES)
    assert artifact.digest == "00c7d124e185488f5da62786ea85bb78b9d771af99147efe5c0b7fe53b1e3351"


@pytest.mark.parametrize("change", ["flip", "truncate", "extend"])
def test_a_changed_file_is_refused_with_both_hashes(artifact: Artifact, change: str) -> None:
    path = artifact.path("segments/0.onnx")
    good = path.read_bytes()
    path.write_bytes({"flip": b"X" + good[1:], "truncate": good[:-5], "extend": good + b"!"}[change])
    with pytest.raises(TamperedError) as caught:
        open_artifact(artifact.directory)
    entry = next(f for f in artifact.manifest.files if f.name == "segments/0.onnx")
    import hashlib

    for word in ["0.onnx", entry.sha256, hashlib.sha256(path.read_bytes()).hexdigest()]:
        assert word in str(caught.value)


def test_missing_files_and_links_are_refused(artifact: Artifact) -> None:
    path = artifact.path("labels.txt")
    path.unlink()
    with pytest.raises(ArtifactError, match=r"labels\.txt.*must exist"):
        open_artifact(artifact.directory)
    path.symlink_to("/etc/passwd")
    with pytest.raises(ArtifactError, match="plain file"):
        open_artifact(artifact.directory)


def edit(artifact: Artifact, **changes: object) -> None:
    path = artifact.directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_formats_are_refused_by_name(artifact: Artifact) -> None:
    edit(artifact, format=0)
    with pytest.raises(ArtifactError, match=r"format 1, but got format 0"):
        open_artifact(artifact.directory)
    edit(artifact, format=1, surprise=True)
    with pytest.raises(ArtifactError, match="surprise"):
        open_artifact(artifact.directory)
    (artifact.directory / "manifest.json").write_bytes(b'{"format": 1')
    with pytest.raises(ArtifactError, match="must be valid"):
        open_artifact(artifact.directory)
    (artifact.directory / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_artifact(artifact.directory)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\evil", "", "manifest.json", "x\0y"])
def test_names_that_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="stay inside"):
        write_artifact(tmp_path / "a", MANIFEST, FILES | {name: b"evil"})
    assert list(tmp_path.iterdir()) == []


def test_a_pushed_manifest_cannot_name_a_path_outside(artifact: Artifact, tmp_path: Path) -> None:
    files = read_files(artifact)
    content = json.loads(files["manifest.json"])
    content["files"].append({"name": "../evil", "bytes": 1, "sha256": "0" * 64})
    files |= {"manifest.json": json.dumps(content).encode(), "../evil": b"x"}
    with pytest.raises(ArtifactError, match="stay inside"):
        receive_files(tmp_path / "b", files)
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "evil").exists()


def test_a_push_arrives_whole_or_not_at_all(artifact: Artifact, tmp_path: Path) -> None:
    files = read_files(artifact)
    assert receive_files(tmp_path / "b", files).digest == artifact.digest
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TamperedError):
        receive_files(tmp_path / "c", files | {"labels.txt": b"y"})
    with pytest.raises(ArtifactError, match="must be sent"):
        receive_files(tmp_path / "c", {k: v for k, v in files.items() if k != "labels.txt"})
    with pytest.raises(ArtifactError, match="listed in the manifest"):
        receive_files(tmp_path / "c", files | {"more.txt": b""})
    with pytest.raises(ArtifactError, match="must include"):
        receive_files(tmp_path / "c", {})
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="must not exist"):
        write_artifact(artifact.directory, MANIFEST, FILES)


def test_accuracy_is_added_and_replaced(artifact: Artifact) -> None:
    def measured(value: float) -> Accuracy:
        return Accuracy(metric="accuracy", value=value, split="test", items=10)

    once = record_accuracy(artifact, measured(0.5))
    twice = record_accuracy(once, measured(0.75))
    assert [a.value for a in twice.manifest.accuracy] == [0.75]
    assert once.digest != twice.digest
    assert open_artifact(artifact.directory) == twice


@given(st.binary(max_size=300))
def test_no_bytes_in_place_of_a_manifest_do_harm(junk: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_bytes(junk)
        with pytest.raises(ArtifactError):
            open_artifact(Path(folder))


@pytest.mark.parametrize("content", [b'{"format": 1, "name": "\xb8"}', b"[" * 100_000, b'{"a":' * 50_000])
def test_a_manifest_of_other_bytes_or_too_deep_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="manifest must be valid"):
        open_artifact(tmp_path)


def test_tensor_bytes() -> None:
    assert TensorSpec(name="x", dtype="INT64", shape=(-1, 3)).nbytes(batch=2) == 48
    assert msgspec.json.decode(msgspec.json.encode(MANIFEST), type=Manifest) == MANIFEST
