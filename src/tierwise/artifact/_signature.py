"""Who vouches for an artifact: Ed25519 signatures over the manifest's digest, which names every byte of it.

Source: RFC 8032 (Ed25519), through the ``cryptography`` library.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, final

import msgspec

from tierwise._config import Spec
from tierwise._errors import ArtifactError, InputError, SignatureError, SpecError
from tierwise.artifact._artifact import SIGNATURE, Artifact

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Signature", "TrustedKey", "new_signing_key", "read_signatures", "sign", "trusted_keys", "verify"]

# A signature for this purpose is good for no other one.
_PURPOSE: Final = b"tierwise artifact manifest, format 1\0"
_MOST_BYTES: Final = 64 << 10


@final
class Signature(Spec, frozen=True, kw_only=True):
    """One signature of an artifact.

    Attributes:
        key: Id of the key: the first 16 hexadecimal digits of the SHA-256 of its public half. Says which key to try;
            trusted is only what that key verifies.
        ed25519: The signature, base64.
    """

    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]
    ed25519: Annotated[str, msgspec.Meta(max_length=128)]


class _File(Spec, frozen=True, kw_only=True):
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=64)] = ()


@final
@dataclass(frozen=True)
class TrustedKey:
    """A public key whose signatures count.

    Attributes:
        id: See `Signature.key`.
        file: Where it came from.
        raw: Its 32 bytes.
    """

    id: str
    file: Path
    raw: bytes


def new_signing_key(path: Path) -> TrustedKey:
    """Make a pair of keys: the private one in ``path`` (its owner's alone), the public one in ``path.pub``, both PEM.

    Raises:
        InputError: One of the files exists or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = path.with_name(f"{path.name}.pub")
    private_text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_text = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if public.exists():
        raise InputError("the file of a new key must not exist", where=public)
    _create(path, private_text, 0o600)
    _create(public, public_text, 0o644)
    return _trusted(key.public_key(), public)


def sign(artifact: Artifact, key: Path) -> Signature:
    """Vouch for an artifact as it is now; others' signatures stay beside this one.

    Args:
        artifact: What to vouch for.
        key: PEM file of an Ed25519 private key.

    Raises:
        InputError: The key cannot be used.
        ArtifactError: The signatures it has cannot be read.
    """
    private = _private_key(key)
    mine = _trusted(private.public_key(), key)
    made = Signature(key=mine.id, ed25519=base64.b64encode(private.sign(_message(artifact))).decode())
    others = [known for known in read_signatures(artifact) if known.key != mine.id]
    content = msgspec.json.format(msgspec.json.encode(_File(signatures=(*others, made))), indent=1) + b"\n"
    stage = artifact.directory / f".{SIGNATURE}.{os.getpid()}"
    stage.write_bytes(content)
    stage.replace(artifact.directory / SIGNATURE)
    return made


def read_signatures(artifact: Artifact) -> tuple[Signature, ...]:
    """What an artifact carries, not verified; empty where it was never signed.

    Raises:
        ArtifactError: The file cannot be read.
    """
    path = artifact.path(SIGNATURE)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ArtifactError(f"signatures must fit {_MOST_BYTES} bytes", where=path)
        return msgspec.json.decode(content, type=_File).signatures
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the file must hold signatures ({error})", where=path) from error


def trusted_keys(places: Sequence[str | Path]) -> tuple[TrustedKey, ...]:
    """The public keys in some files, and in the ``.pub`` files of some folders.

    Raises:
        SpecError: One of them cannot be read, or is not an Ed25519 public key.
    """
    return tuple(_public_key(file) for place in map(Path, places) for file in _files(place))


def verify(artifact: Artifact, trusted: Sequence[TrustedKey]) -> TrustedKey:
    """The trusted key that vouches for an artifact.

    Args:
        artifact: Opened just now, so that its files are those of the manifest.
        trusted: Keys that count.

    Raises:
        SignatureError: No trusted key signed it as it is.
        ArtifactError: Its signatures cannot be read.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signatures = read_signatures(artifact)
    for signature in signatures:
        for key in trusted:
            if key.id != signature.key:
                continue
            try:
                content = base64.b64decode(signature.ed25519, validate=True)
                Ed25519PublicKey.from_public_bytes(key.raw).verify(content, _message(artifact))
            except (InvalidSignature, ValueError):
                continue
            return key
    raise SignatureError(
        f"the artifact must be signed, as it is, by one of the {len(trusted)} trusted keys",
        got="no signature" if not signatures else f"signatures by {', '.join(s.key for s in signatures)}",
        where=artifact.directory,
        fix="Sign it (tierwise artifact sign DIRECTORY --key KEY) and let the node trust that key's public half",
    )


def _message(artifact: Artifact) -> bytes:
    return _PURPOSE + bytes.fromhex(artifact.digest)


def _files(place: Path) -> list[Path]:
    try:
        return sorted(place.glob("*.pub")) if place.is_dir() else [place]
    except OSError as error:
        raise SpecError(f"the folder of keys must be readable ({error})", where=place) from error


def _trusted(key: Ed25519PublicKey, file: Path) -> TrustedKey:
    from cryptography.hazmat.primitives import serialization

    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return TrustedKey(hashlib.sha256(raw).hexdigest()[:16], file, raw)


def _public_key(path: Path) -> TrustedKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SpecError(f"the file must be a public key, PEM ({error})", where=path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise SpecError("a trusted key must be an Ed25519 public key", got=type(key).__name__, where=path)
    return _trusted(key, path)


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"the file must be a private key, PEM and not encrypted ({error})",
            where=path,
            fix="Make one: tierwise artifact keygen FILE",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("the key must be an Ed25519 private key", got=type(key).__name__, where=path)
    return key


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise InputError(f"the file of a new key must not exist and its folder be writable ({error})") from error
    with os.fdopen(number, "wb") as file:
        file.write(content)
