"""Keys, signatures, and who is trusted."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tierwise._errors import ArtifactError, InputError, SignatureError, SpecError
from tierwise.artifact import (
    SIGNATURE,
    Accuracy,
    Artifact,
    Manifest,
    Provenance,
    Segment,
    TensorInput,
    TensorSpec,
    new_signing_key,
    open_artifact,
    read_files,
    read_signatures,
    receive_files,
    record_accuracy,
    sign,
    trusted_keys,
    verify,
    write_artifact,
)

X = TensorSpec(name="x", dtype="FP32", shape=(-1, 4))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    manifest = Manifest(
        name="m",
        input=TensorInput(tensors=(X,)),
        outputs=(X,),
        segments=(Segment(file="m.onnx", inputs=(X,), outputs=(X,), macs=0),),
        files=(),
        provenance=Provenance(task="t", task_fingerprint="f", chain="identity", specs=(), versions={}),
    )
    return write_artifact(tmp_path / "a", manifest, {"m.onnx": b"content"})


def test_a_new_key_is_its_owners_alone_and_never_written_over(tmp_path: Path) -> None:
    made = new_signing_key(tmp_path / "k")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert trusted_keys([made.file]) == (made,)
    for name in ("k", "k.pub"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InputError, match="must not exist"):
            new_signing_key(tmp_path / "k")
        assert (tmp_path / name).read_bytes() == before


def test_a_signature_travels_and_counts_for_those_who_trust_its_key(artifact: Artifact, tmp_path: Path) -> None:
    mine, other = new_signing_key(tmp_path / "mine"), new_signing_key(tmp_path / "other")
    with pytest.raises(SignatureError, match=r"by one of the 1 trusted keys, but got no signature"):
        verify(artifact, [mine])
    made = sign(artifact, tmp_path / "mine")
    assert sign(artifact, tmp_path / "mine") == made  # Ed25519 is deterministic, and one key signs once
    assert read_signatures(artifact) == (made,)
    received = receive_files(tmp_path / "b", read_files(artifact))
    assert verify(received, [other, mine]) == mine
    with pytest.raises(SignatureError, match=f"but got signatures by {mine.id}"):
        verify(received, [other])
    with pytest.raises(SignatureError, match="one of the 0 trusted keys"):
        verify(received, [])
    sign(received, tmp_path / "other")
    assert verify(received, [other]) == other
    assert verify(received, [mine]) == mine


def test_a_signature_does_not_outlive_what_it_was_for(artifact: Artifact, tmp_path: Path) -> None:
    mine = new_signing_key(tmp_path / "mine")
    made = sign(artifact, tmp_path / "mine")
    changed = record_accuracy(artifact, Accuracy(metric="accuracy", split="test", value=0.5, items=10))
    assert read_signatures(changed) == ()
    changed.path(SIGNATURE).write_text(json.dumps({"signatures": [{"key": made.key, "ed25519": made.ed25519}]}))
    with pytest.raises(SignatureError, match="as it is"):
        verify(open_artifact(changed.directory), [mine])


@pytest.mark.parametrize(
    "content", [b"junk", b"[]", b'{"signatures": [{"key": "x", "ed25519": ""}]}', b" " * 70_000, b"[" * 60_000]
)
def test_what_are_no_signatures_is_refused(artifact: Artifact, tmp_path: Path, content: bytes) -> None:
    artifact.path(SIGNATURE).write_bytes(content)
    with pytest.raises(ArtifactError, match="signatures"):
        verify(artifact, [new_signing_key(tmp_path / "mine")])


@pytest.mark.parametrize("ed25519", ["", "AAAA", "!!!!", "A" * 88])
def test_a_key_named_is_not_a_key_used(artifact: Artifact, tmp_path: Path, ed25519: str) -> None:
    mine = new_signing_key(tmp_path / "mine")
    artifact.path(SIGNATURE).write_text(json.dumps({"signatures": [{"key": mine.id, "ed25519": ed25519}]}))
    with pytest.raises(SignatureError):
        verify(artifact, [mine])


def test_keys_of_other_kinds_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ec.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "junk.pub").write_bytes(b"junk")
    with pytest.raises(InputError, match="Ed25519 private key, but got"):
        sign(artifact, tmp_path / "ec")
    with pytest.raises(InputError, match=r"must be a private key, PEM .* Make one: tierwise artifact keygen"):
        sign(artifact, tmp_path / "junk.pub")
    with pytest.raises(SpecError, match="Ed25519 public key"):
        trusted_keys([tmp_path / "ec.pub"])
    with pytest.raises(SpecError, match="public key, PEM"):
        trusted_keys([tmp_path / "junk.pub"])
    with pytest.raises(SpecError, match="public key, PEM"):
        trusted_keys([tmp_path / "missing.pub"])
