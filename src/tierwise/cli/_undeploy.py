"""``tierwise undeploy``."""

from __future__ import annotations

from pathlib import Path

import click

from tierwise._errors import InputError
from tierwise.cli._credentials import credentials

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise undeploy study-digits 'sptq+partition@mobile|edge'     by its strategy
  tierwise undeploy study-digits digits                           by the name clients ask for
  tierwise undeploy digits                                        that name in a study of this directory
"""


@click.command(epilog=_EPILOG)
@click.argument("target", metavar="DIRECTORY|NAME")
@click.argument("wanted", required=False, metavar="[STRATEGY|NAME]")
@click.option("--force", is_flag=True, help="Forget nodes that do not answer.")
@credentials
def command(target: str, wanted: str | None, force: bool) -> None:
    """Take a deployment off its nodes, by the record that deploying it left in the study's DIRECTORY."""
    from tierwise.cli._plain import LineProgress
    from tierwise.study import find_deployment, undeploy

    directory = _directory(target) if wanted is None else Path(target)
    found = find_deployment(directory, target if wanted is None else wanted)
    undeploy(directory, found, LineProgress(), force=force)
    nodes = ", ".join(f"{tier} ({hop.control})" for tier, hop in zip(found.tiers, found.rollout.placement, strict=True))
    click.echo(f"{found.rollout.name} was taken off {nodes}")


def _directory(name: str) -> Path:
    """The only study beside or at the current directory that deployed ``name``."""
    records = [*Path().glob("deployments/*.json"), *Path().glob("*/deployments/*.json")]
    studies = sorted({path.parent.parent for path in records if path.name == f"{name}.json"})
    if len(studies) != 1:
        found = ", ".join(map(str, studies)) or "none here"
        raise InputError(
            f"one study of this directory must have deployed {name!r}",
            got=found,
            fix="Name the study: tierwise undeploy DIRECTORY NAME",
        )
    return studies[0]
