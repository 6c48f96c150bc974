"""How a client is let in: what it trusts, shows and says, for which addresses. Secrets stay in files or variables."""

from __future__ import annotations

import fnmatch
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final, final

import msgspec

from tierwise._config import Spec, load_toml
from tierwise._errors import SpecError
from tierwise.wire._tls import ClientTls

__all__ = ["CREDENTIALS_VARIABLE", "Credentials", "Keyring", "find_credentials", "is_local", "load_keyring"]

CREDENTIALS_VARIABLE: Final = "TIERWISE_CREDENTIALS"
"""Environment variable that names keyring files (several with ``:`` between them), for clients that are told nothing
else: this process and those it starts."""


@final
class Credentials(Spec, frozen=True, kw_only=True):
    """How one client is let in by one server.

    Attributes:
        match: Addresses it is for, as they are asked for; ``*`` and ``?`` stand for what may differ.
        tls: How the connection is secured; None: it is not.
        token_env: Environment variable that holds a bearer token.
        token_file: File that holds one.
        plain_token: Send the token though the connection is not secured and leaves this machine: whoever sees the
            network has it then.
    """

    match: Annotated[str, msgspec.Meta(min_length=1)] = "*"
    tls: ClientTls | None = None
    token_env: str | None = None
    token_file: str | None = None
    plain_token: bool = False

    def __post_init__(self) -> None:
        """Check that the token comes from one place."""
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("a token must come from token_env or token_file, not from both")

    def token(self, address: str) -> str | None:
        """The token to say at ``address``; None where there is none.

        Raises:
            SpecError: It cannot be read, or would travel in the clear.
        """
        if self.token_env is None and self.token_file is None:
            return None
        if self.tls is None and not self.plain_token and not is_local(address):
            raise SpecError(
                "a token must travel over TLS",
                got="credentials without tls",
                where=address,
                fix="Add [node.tls] to the credentials, or plain_token = true where the network itself is secured",
            )
        if self.token_env is not None:
            return _checked(os.environ.get(self.token_env, ""), f"environment variable {self.token_env}")
        path = Path(str(self.token_file))
        try:
            return _checked(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"the token's file must be readable ({error})", where=path) from error


@final
class Keyring(Spec, frozen=True, kw_only=True):
    """Credentials for several servers, as a TOML file of tables ``[[node]]`` holds them.

    Attributes:
        node: The first whose ``match`` fits an address counts.
    """

    node: tuple[Credentials, ...] = ()

    def find(self, address: str) -> Credentials | None:
        """The credentials for ``address``; None where none fit."""
        return next((known for known in self.node if fnmatch.fnmatchcase(address, known.match)), None)


def load_keyring(path: Path) -> Keyring:
    """A keyring from its TOML file; the files it names are relative to it.

    Raises:
        SpecError: The file cannot be read, or is not a keyring.
    """
    keyring, folder = load_toml(path, Keyring), path.parent

    def beside(name: str | None) -> str | None:
        if name is None:
            return None
        try:
            return str(folder / Path(name).expanduser())
        except RuntimeError as error:
            raise SpecError("a path from ~ on must be in a home that exists", got=repr(name), where=path) from error

    def placed(known: Credentials) -> Credentials:
        tls = known.tls and msgspec.structs.replace(
            known.tls,
            authority=beside(known.tls.authority),
            certificate=beside(known.tls.certificate),
            key=beside(known.tls.key),
        )
        return msgspec.structs.replace(known, tls=tls, token_file=beside(known.token_file))

    return Keyring(node=tuple(map(placed, keyring.node)))


def find_credentials(address: str) -> Credentials | None:
    """What the keyrings that the environment names have for ``address``; None where they have nothing.

    Raises:
        SpecError: A keyring cannot be read.
    """
    for name in os.environ.get(CREDENTIALS_VARIABLE, "").split(os.pathsep):
        found = load_keyring(Path(name)).find(address) if name else None
        if found is not None:
            return found
    return None


def is_local(address: str) -> bool:
    """Whether what is sent to ``address`` stays on this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(text: str, where: str) -> str:
    token = text.strip()
    # It becomes a header, where other characters would be an error of gRPC's that quotes it.
    if not token or len(token) > 4096 or not all("!" <= character <= "~" for character in token):
        raise SpecError("a token must be one line of printable ASCII", got=f"{len(text)} characters", where=where)
    return token
