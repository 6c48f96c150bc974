"""Who a server is and who its clients are, shown with certificates: TLS and mutual TLS for gRPC and HTTP."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from tierwise._config import Spec
from tierwise._errors import SpecError

if TYPE_CHECKING:
    import ssl

    import grpc

__all__ = ["ClientTls", "ServerTls", "certificate_problems", "channel_credentials", "server_context", "server_tls"]

_FIX: Final = "Give PEM files that this process may read"


@final
class ServerTls(Spec, frozen=True, kw_only=True):
    """How a server shows who it is; all files are PEM.

    Files that are replaced by others (renewed certificates) are used from the next connection on.

    Attributes:
        certificate: File of its certificate, with those between it and the authority.
        key: File of its private key, not encrypted.
        client_authority: File of the authorities that clients' certificates must come from. Given, a client without
            such a certificate is not served at all (mutual TLS); None: clients show none.
    """

    certificate: str
    key: str
    client_authority: str | None = None


@final
class ClientTls(Spec, frozen=True, kw_only=True):
    """How a client knows its server, and what it shows of itself; all files are PEM.

    Attributes:
        authority: File of the authorities that the server's certificate must come from; None: the public ones.
        certificate: File of the client's own certificate, where the server wants one.
        key: File of its private key.
        name: Name that the server's certificate must hold; None: the host in the address.
    """

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Check that certificate and key come together."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate and key must be given together")


def server_tls(spec: ServerTls) -> Any:
    """What gRPC's ``add_secure_port`` takes.

    Raises:
        SpecError: A file cannot be read, or key and certificate do not belong together.
    """
    import grpc

    _context(spec)
    files = _Renewed(spec)

    def read() -> Any:
        authority = None if spec.client_authority is None else _read(spec.client_authority)
        pair = (_read(spec.key), _read(spec.certificate))
        return grpc.ssl_server_certificate_configuration([pair], authority)

    def renewed() -> Any:
        # None keeps what there is: half of a renewal must not lock everybody out.
        return files.after_change(lambda: (_context(spec), read())[1])

    return grpc.dynamic_ssl_server_credentials(read(), renewed, spec.client_authority is not None)


def server_context(spec: ServerTls) -> ssl.SSLContext:
    """What an HTTP server takes.

    Raises:
        SpecError: As `server_tls`.
    """
    context = _context(spec)
    files = _Renewed(spec)
    newest = context

    def hello(connection: ssl.SSLObject, name: str | None, asked: ssl.SSLContext) -> None:
        nonlocal newest
        newest = files.after_change(lambda: _context(spec)) or newest
        connection.context = newest

    context.sni_callback = hello
    return context


def channel_credentials(spec: ClientTls) -> grpc.ChannelCredentials:
    """What gRPC's ``secure_channel`` takes.

    Raises:
        SpecError: A file cannot be read, or key and certificate do not belong together.
    """
    import ssl

    import grpc

    if spec.certificate is not None and spec.key is not None:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), spec.certificate, spec.key, None)
    return grpc.ssl_channel_credentials(
        None if spec.authority is None else _read(spec.authority),
        None if spec.key is None else _read(spec.key),
        None if spec.certificate is None else _read(spec.certificate),
    )


def certificate_problems(spec: ServerTls, now: datetime.datetime) -> list[str]:
    """What is wrong with a server's files, one sentence each; empty where nothing is.

    Args:
        spec: The files.
        now: With its time zone.
    """
    from cryptography import x509

    try:
        _context(spec)
        certificate = x509.load_pem_x509_certificate(_read(spec.certificate))
    except (SpecError, ValueError) as error:
        return [str(error)]
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begins <= now <= ends:
        return []
    return [f"{spec.certificate}: the certificate must be valid now, but it is from {begins:%F} to {ends:%F}"]


@final
class _Renewed:
    """Notices that a server's files were replaced."""

    def __init__(self, spec: ServerTls) -> None:
        self._paths = [Path(name) for name in (spec.certificate, spec.key, spec.client_authority) if name is not None]
        self._lock = threading.Lock()
        self._seen = self._stamps()

    def after_change(self, load: Callable[[], Any]) -> Any:
        """What ``load`` makes of them; None where they are as before, or cannot be used yet."""
        with self._lock:
            stamps = self._stamps()
            if stamps == self._seen:
                return None
            try:
                loaded = load()
            except SpecError:
                return None
            self._seen = stamps
            return loaded

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _context(spec: ServerTls) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, spec.certificate, spec.key, spec.client_authority)
    if spec.client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str, authority: str | None) -> None:
    for name in (certificate, key):
        _read(name)
    try:
        # An empty password: one that is asked for on the terminal would stop a node that nobody watches.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl's errors are of this kind
        raise SpecError(
            f"the file must hold a certificate that the key {key} belongs to ({error})", where=certificate, fix=_FIX
        ) from error
    if authority is None:
        return
    _read(authority)
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise SpecError(f"the file must hold certificates ({error})", where=authority, fix=_FIX) from error


def _read(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SpecError(f"the file must be readable ({error.strerror})", where=path, fix=_FIX) from error
    if b"-----BEGIN " not in content:
        raise SpecError("the file must be PEM", where=path, fix=_FIX)
    return content
