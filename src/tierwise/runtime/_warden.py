"""The guard of a node: tells who asks, whether they may, and whether it is too much."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Literal, final

from tierwise._clock import Clock
from tierwise._errors import InputError
from tierwise.runtime._guard import Method, Peer, Principal
from tierwise.runtime._quota import Quota
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._security import NodeLimits, SecuritySpec
from tierwise.wire import TokenBook

__all__ = ["Warden"]

Right = Literal["none", "infer", "train", "admin"]

# What each method needs. Whether a node lives is nobody's secret; what it serves and did is for who may ask models.
_NEEDS: Final[dict[Method, Right]] = {
    "live": "none",
    "ready": "none",
    "server_metadata": "infer",
    "model_ready": "infer",
    "model_metadata": "infer",
    "statistics": "infer",
    "infer": "infer",
    "index": "infer",
    "load": "admin",
    "unload": "admin",
    "train": "train",
}
_LOCAL: Final = Principal("local")
_RANK: Final[dict[Right, int]] = {"none": 0, "infer": 1, "train": 2, "admin": 3}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@final
class Warden:
    """A `Guard` that does what a `SecuritySpec` and `NodeLimits` say; may be asked from several threads.

    Args:
        spec: Who may do what.
        limits: How much.
        clock: The host's clock.
        now: The time of day, with its zone, for tokens that end.

    Raises:
        SpecError: The file of tokens cannot be used.
    """

    def __init__(
        self,
        spec: SecuritySpec,
        limits: NodeLimits,
        clock: Clock,
        now: Callable[[], datetime.datetime] = _now,
    ) -> None:
        self._spec, self._now = spec, now
        self._tokens = None if spec.tokens is None else TokenBook(Path(spec.tokens))
        self._admins = frozenset(spec.admin_certificates)
        self._quota = Quota(clock, limits.rate_per_s, limits.rate_burst, limits.concurrent)
        shown = spec.tls is not None and spec.tls.client_authority is not None
        # Where strangers can be told apart from those who were let in, they are.
        self._strangers: Right = "infer" if self._tokens is None and not shown else "none"

    def admit(self, peer: Peer, method: Method) -> Principal:
        """See `Guard.admit`."""
        needed = _NEEDS[method]
        if needed == "none":
            return Principal(_host(peer.address))
        principal, right = self._who(peer)
        self._quota.charge(principal)
        if _RANK[right] < _RANK[needed]:
            raise self._refused(right, needed)
        return principal

    def held(self, principal: Principal) -> AbstractContextManager[None]:
        """See `Guard.held`."""
        return self._quota.held(principal)

    def _who(self, peer: Peer) -> tuple[Principal, Right]:
        if peer.token is not None and self._tokens is not None:
            token = self._tokens.find(peer.token, self._now())
            if token is None:
                # Guessing costs its host's quota; the next guess is as far from a token as the first.
                self._quota.charge(Principal(_host(peer.address)))
                raise RefusalError(
                    Code.UNAUTHENTICATED,
                    InputError("the token must be one that this node knows and that has not ended"),
                )
            return Principal(f"token {token.name}"), token.scope
        if peer.certificate_names:
            admin = not self._admins.isdisjoint(peer.certificate_names)
            return Principal(f"certificate {peer.certificate_names[0][:100]}"), "admin" if admin else "infer"
        if peer.loopback and not peer.web and self._spec.local == "trusted":
            return _LOCAL, "admin"
        return Principal(_host(peer.address)), self._strangers

    def _refused(self, right: Right, needed: Right) -> RefusalError:
        if right == "none":
            return RefusalError(
                Code.UNAUTHENTICATED,
                InputError(
                    "who asks must say who they are",
                    got="neither a token nor a certificate",
                    fix=f"Send a token of scope {needed}",
                ),
            )
        ways = (
            f"Use a token of scope {needed}"
            if self._tokens
            else "Ask on the node's own machine or over its unix socket"
        )
        must = "models may be loaded and unloaded only by who may administer this node"
        if needed == "train":
            must = "models may be trained only by who may train on this node, or administer it"
        return RefusalError(Code.FORBIDDEN, InputError(must, fix=ways))


@functools.lru_cache(maxsize=4096)
def _host(address: str) -> str:
    """What strangers are told apart by: an IPv4 address, or the network of an IPv6 one (whoever has one has 2^64)."""
    if address.startswith("unix:"):
        return "host unix"
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return "host unknown"
    if parsed.version == 6:
        mapped = parsed.ipv4_mapped
        return f"host {mapped}" if mapped else f"host {ipaddress.ip_network((parsed, 64), strict=False)}"
    return f"host {parsed}"
