"""Which names a browser may know the page by: a defence against DNS rebinding."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HostCheck", "host_allowed"]

_FORM: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")

_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)  # fmt: skip


def host_allowed(host: str, names: Collection[str]) -> bool:
    """Whether a request's ``Host`` is one that this page answers to.

    A page of an attacker's can make a browser believe that the attacker's name is this machine's, and would then read
    this page as its own. The browser sends that name along: only ``localhost``, addresses (which no name can be made
    to stand for) and names that were given are answered.

    Example:
        >>> host_allowed("127.0.0.1:8080", ()), host_allowed("[::1]:8080", ()), host_allowed("evil.example:8080", ())
        (True, True, False)
    """
    found = _FORM.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().rstrip(".")
    if name == "localhost" or name in {one.lower() for one in names}:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


@final
class HostCheck:
    """Middleware: refuses other hosts and other sites' requests, and sets what keeps a browser from being misled.

    Args:
        app: What answers.
        names: Names beside ``localhost`` and addresses.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
        if len(hosts) != 1 or not host_allowed(hosts[0], self._names):
            text = b"This console answers to localhost, to addresses and to names given with --host.\n"
            await _refuse(send, 403, text)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, 405, b"This console is to be read only.\n")
            return

        async def send_guarded(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}  # type: ignore[misc]
            await send(message)

        await self._app(scope, receive, send_guarded)  # type: ignore[arg-type]


async def _refuse(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
