"""What is wrong, and what is unwise, in how a node is told to deal with strangers; found without serving."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tierwise._errors import TierwiseError
from tierwise.artifact import trusted_keys
from tierwise.runtime._spec import NodeSpec
from tierwise.wire import certificate_problems, is_local, load_keyring, read_tokens

__all__ = ["cautions", "dangers"]


def dangers(spec: NodeSpec) -> list[str]:
    """What would keep the node from serving as it is told to, one sentence each."""
    security = spec.security
    problems = []
    if security.tls is not None:
        problems += certificate_problems(security.tls, datetime.datetime.now(datetime.UTC))
    if security.tokens is not None:
        problems += _tried(partial(read_tokens, Path(security.tokens)))
    if security.forward_credentials is not None:
        problems += _tried(partial(load_keyring, Path(security.forward_credentials)))
    unread = _tried(partial(trusted_keys, security.trusted_keys))
    problems += unread
    if security.trusted_keys and not unread and not trusted_keys(security.trusted_keys):
        problems.append(f"{security.trusted_keys[0]}: there must be a public key (*.pub) among the trusted keys")
    return problems


def cautions(spec: NodeSpec) -> list[str]:
    """What works, and lets more people in than whoever set it up may think; one sentence each."""
    security = spec.security
    metrics = () if spec.observability.metrics_listen is None else (spec.observability.metrics_listen,)
    open_to = [address for address in (*spec.listen, *spec.rest, *metrics) if not is_local(address)]
    told = []
    if open_to and security.tls is None:
        told.append(f"{open_to[0]}: without TLS, whoever sees the network reads requests, answers and tokens")
    known = security.tokens is not None or (security.tls is not None and security.tls.client_authority is not None)
    if open_to and not known:
        told.append(f"{open_to[0]}: without tokens or client certificates, whoever reaches it may ask its models")
    secret = (("token file", security.tokens), ("private key", None if security.tls is None else security.tls.key))
    for what, name in secret:
        if name is not None and Path(name).is_file() and Path(name).stat().st_mode & 0o077:
            told.append(f"{name}: others on this machine can read the {what}; chmod 600 it")
    return told


def _tried(read: Callable[[], object]) -> list[str]:
    try:
        read()
    except TierwiseError as error:
        return [str(error)]
    return []
