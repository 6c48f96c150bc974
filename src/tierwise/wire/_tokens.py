"""Bearer tokens: made once, kept as hashes, looked up by hash."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal, final

import msgspec

from tierwise._config import Spec
from tierwise._errors import SpecError

__all__ = ["Scope", "Token", "TokenBook", "new_token", "read_tokens", "revoke_token"]

Scope = Literal["infer", "train", "admin"]
"""What a token lets its bearer do: ask models; or that and train them; or all that and change what is served."""

_PREFIX: Final = "tw_"  # so that a scanner for leaked secrets can tell what it found
_RANDOM_BYTES: Final = 32
# A file is looked at for changes no more often than this.
_LOOK_S: Final = 0.5


@final
class Token(Spec, frozen=True, kw_only=True):
    """One token as its file knows it: everything but the token.

    Attributes:
        name: Whose it is, for logs and quotas.
        scope: What it is good for.
        sha256: Hash of the token. A token is 32 random bytes, so that a plain hash cannot be searched.
        expires: When it ends; None: never.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    scope: Scope
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    expires: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None


class _File(Spec, frozen=True, kw_only=True):
    tokens: tuple[Token, ...] = ()


def new_token(path: Path, name: str, scope: Scope, expires: datetime.datetime | None = None) -> str:
    """Make a token and add its hash to a file, which is made where it is missing and is its owner's alone.

    Returns:
        The token. It is nowhere else, and cannot be found out again.

    Raises:
        SpecError: The name is taken or not of the form, or the file cannot be read or written.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        token = msgspec.convert({"name": name, "scope": scope, "sha256": _sha256(secret), "expires": expires}, Token)
    except msgspec.ValidationError as error:
        raise SpecError(f"a token's name must be letters, digits and ._@-, at most 64 ({error})", got=name) from error
    with _changing(path):
        known = read_tokens(path) if path.exists() else ()
        if any(other.name == name for other in known):
            raise SpecError("a token's name must be new", got=name, where=path, fix="Revoke that one first")
        _write(path, (*known, token))
    return secret


def revoke_token(path: Path, name: str) -> None:
    """Take a token out of its file; nodes that run notice within a second.

    Raises:
        SpecError: There is none of that name, or the file cannot be read or written.
    """
    with _changing(path):
        known = read_tokens(path)
        kept = tuple(token for token in known if token.name != name)
        if len(kept) == len(known):
            names = ", ".join(token.name for token in known) or "none"
            raise SpecError(f"the token must be one of the file's ({names})", got=name, where=path)
        _write(path, kept)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """What a file of tokens holds.

    Raises:
        SpecError: It cannot be read, is not such a file, has a name twice, or others than its owner may change it.
    """
    try:
        mode = path.stat().st_mode
        content = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise SpecError(
            f"the file of tokens must be readable ({error.strerror})",
            where=path,
            fix="Make it with: tierwise token new NAME --tokens FILE",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"the file must hold tokens ({error})", where=path) from error
    if mode & 0o022:
        raise SpecError(
            "only its owner may change a file of tokens", got=f"mode {mode & 0o777:o}", where=path, fix="chmod 600 it"
        )
    names = [token.name for token in content.tokens]
    if len(set(names)) < len(names):
        raise SpecError("a token's name must be there once", where=path)
    return content.tokens


@final
class TokenBook:
    """A file of tokens as a server uses it; may be asked from several threads.

    A changed file is noticed within a second. One that became unreadable lets nobody in until it is right again.

    Args:
        path: The file.

    Raises:
        SpecError: As `read_tokens`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._tokens = _by_hash(read_tokens(path))
        self._stamp, self._looked_s = self._read_stamp(), time.monotonic()

    def find(self, secret: str, now: datetime.datetime) -> Token | None:
        """Whose token this is; None where nobody's, or where it has ended.

        Args:
            secret: What the client said.
            now: With its time zone.
        """
        # The time a look-up takes may tell something of the hash of what was said, and nothing of any other token.
        found = self._current().get(_sha256(secret))
        if found is None or (found.expires is not None and found.expires <= now):
            return None
        return found

    def _current(self) -> dict[str, Token]:
        if time.monotonic() - self._looked_s < _LOOK_S:
            return self._tokens
        with self._lock:
            stamp, self._looked_s = self._read_stamp(), time.monotonic()
            if stamp != self._stamp:
                try:
                    self._tokens, self._stamp = _by_hash(read_tokens(self._path)), stamp
                except SpecError:
                    self._tokens, self._stamp = {}, None
            return self._tokens

    def _read_stamp(self) -> tuple[int, int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode


def _by_hash(tokens: tuple[Token, ...]) -> dict[str, Token]:
    return {token.sha256: token for token in tokens}


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One process changes the file at a time."""
    try:
        folder = os.open(path.absolute().parent, os.O_RDONLY)
    except OSError as error:
        raise SpecError(f"the folder must exist ({error.strerror})", where=path.parent) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, tokens: tuple[Token, ...]) -> None:
    content = msgspec.json.format(msgspec.json.encode(_File(tokens=tokens)), indent=1) + b"\n"
    try:
        # mkstemp makes it 0600 from its first byte on.
        number, stage = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(stage).replace(path)
        except BaseException:
            Path(stage).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SpecError(f"the file of tokens must be writable ({error.strerror})", where=path) from error
