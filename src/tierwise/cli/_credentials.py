"""The option ``--credentials`` of every command that asks nodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["credentials"]


def credentials(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let this command, and the processes it starts, use a keyring file."""
    return click.option(
        "--credentials",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_use,
        help="TOML file of how nodes let this client in: TLS, certificate, token [TIERWISE_CREDENTIALS].",
    )(command)


def _use(ctx: click.Context, option: click.Parameter, given: Path | None) -> None:
    from tierwise.wire import CREDENTIALS_VARIABLE, load_keyring

    if given is None:
        return
    load_keyring(given)
    known = os.environ.get(CREDENTIALS_VARIABLE)
    # In front: what is said here counts before what the environment says.
    os.environ[CREDENTIALS_VARIABLE] = os.pathsep.join([str(given.absolute()), *([known] if known else [])])
