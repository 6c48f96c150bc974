"""Every error Tierwise raises on purpose.

::

    TierwiseError                 a sentence a person can act on; the command line prints it without a traceback
    ├── InputError                what the user gave is wrong                         (exit code 2)
    │   ├── SpecError             a TOML file or a spec value, with its path inside
    │   ├── ArtifactError         a directory that is not an artifact this version can use
    │   │   ├── TamperedError     a file whose content is not what the manifest says
    │   │   └── SignatureError    nobody who is trusted vouches for it as it is
    │   └── ChainError            operators in an order that cannot be built
    ├── UnavailableError          this machine or installation lacks something       (exit code 3)
    ├── EmulationError            a tier or link came out too far from its spec      (exit code 4)
    ├── RemoteError               a node could not be reached or answered an error   (exit code 5)
    └── StoreError                a study directory cannot be used as asked          (exit code 6)

The message of each says what must hold, what came instead, where, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "ChainError",
    "EmulationError",
    "InputError",
    "RemoteError",
    "SignatureError",
    "SpecError",
    "StoreError",
    "TamperedError",
    "TierwiseError",
    "UnavailableError",
]


class TierwiseError(Exception):
    """An error with a message composed from four parts.

    Args:
        must: What must hold, as a sentence without a full stop.
        got: What came instead (shown as given).
        where: The file, key, tensor or address concerned.
        fix: What the reader can do now.
    """

    exit_code = 1

    def __init__(
        self, must: str, *, got: object | None = None, where: object | None = None, fix: str | None = None
    ) -> None:
        self.must, self.got, self.where, self.fix = must, got, where, fix
        text = must if where is None else f"{where}: {must}"
        if got is not None:
            text += f", but got {got}"
        text += "."
        if fix is not None:
            text += f" {fix.rstrip('.')}."
        super().__init__(text)


class InputError(TierwiseError):
    """What the user gave is wrong."""

    exit_code = 2


class SpecError(InputError):
    """A TOML file or a spec value is wrong; ``where`` holds file and path."""


class ArtifactError(InputError):
    """A directory is not an artifact this version can use."""


class TamperedError(ArtifactError):
    """A file's content is not what the manifest says; the message names the file and both hashes."""


class SignatureError(ArtifactError):
    """Nobody who is trusted here vouches for an artifact as it is."""


class ChainError(InputError):
    """Operators stand in an order that cannot be built; the message names the nearest legal chain."""


class UnavailableError(TierwiseError):
    """This machine or installation lacks something; the message says how to get it."""

    exit_code = 3


class EmulationError(TierwiseError):
    """An emulated tier or link came out too far from its spec; the message holds both figures."""

    exit_code = 4


class RemoteError(TierwiseError):
    """A node could not be reached or answered with an error."""

    exit_code = 5


class StoreError(TierwiseError):
    """A study directory cannot be used as asked (another spec, another process, another version)."""

    exit_code = 6
