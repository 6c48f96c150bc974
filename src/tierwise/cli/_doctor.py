"""``tierwise doctor``."""

from __future__ import annotations

import json
import sys

import click
import msgspec

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise doctor
  tierwise doctor --json | jq '.[] | select(.ok | not) | .remedy'
"""


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(as_json: bool) -> None:
    """Show what this machine can do for a study, what that means, and how to get what it lacks.

    Everything is tried for real and nothing is left behind. A study works without most of it: the best means there are
    will be used, verified, and named in its report.
    """
    from tierwise.testbed import capabilities

    found = capabilities()
    if as_json:
        json.dump([msgspec.to_builtins(one) for one in found], sys.stdout, indent=1)
        click.echo()
        return
    width = max(len(one.name) for one in found)
    for one in found:
        mark = click.style("yes", fg="green") if one.ok else click.style("no ", fg="yellow")
        click.echo(f"{mark}  {one.name:<{width}}  {one.meaning}")
        if one.remedy:
            click.echo(f"     {'':<{width}}  -> {one.remedy}")
