"""``tierwise token``."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import cast

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise token new camera-7 --tokens tokens.json                  may ask models
  tierwise token new deploy-bot --scope admin --days 90 --tokens tokens.json
  tierwise token list --tokens tokens.json
  tierwise token revoke camera-7 --tokens tokens.json               nodes that run notice within a second
"""

_tokens = click.option(
    "--tokens", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File of tokens (their hashes)."
)


@click.group(epilog=_EPILOG)
def command() -> None:
    """Make and revoke the bearer tokens that a node lets strangers in with."""


@command.command()
@click.argument("name")
@_tokens
@click.option(
    "--scope",
    type=click.Choice(["infer", "train", "admin"]),
    default="infer",
    show_default=True,
    help="infer: ask models and read figures. train: also train them. admin: also load and unload.",
)
@click.option("--days", type=click.IntRange(1, 36500), help="When it ends [default: never].")
def new(name: str, tokens: Path, scope: str, days: int | None) -> None:
    """Make a token called NAME and print it; the file keeps only its hash."""
    from tierwise.wire import Scope, new_token

    ends = None if days is None else datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    secret = new_token(tokens, name, cast(Scope, scope), ends)
    click.echo(secret)
    click.echo(f"tierwise: token {name} of scope {scope} is in {tokens}; it is shown this once", err=True)


@command.command("list")
@_tokens
def list_tokens(tokens: Path) -> None:
    """Names, scopes and ends of the tokens in a file."""
    from tierwise.wire import read_tokens

    for token in read_tokens(tokens):
        click.echo(f"{token.name:<30} {token.scope:<6} {token.expires.isoformat() if token.expires else 'never ends'}")


@command.command()
@click.argument("name")
@_tokens
def revoke(name: str, tokens: Path) -> None:
    """Take the token NAME out of the file."""
    from tierwise.wire import revoke_token

    revoke_token(tokens, name)
    click.echo(f"{tokens}: {name} is revoked")
