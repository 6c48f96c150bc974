"""``tierwise deploy``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierwise._errors import InputError
from tierwise._units import format_bytes, format_rate, format_seconds
from tierwise.cli._credentials import credentials

if TYPE_CHECKING:
    from tierwise.study import DeploymentPlan

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise deploy study-digits 'sptq+partition@mobile|edge' --topology shop.toml
  tierwise deploy study-digits sptq@edge --topology shop.toml --name digits      a name that stays
  tierwise deploy study-digits sptq@edge --topology shop.toml --dry-run          what would be pushed where
  tierwise deploy study-digits sptq@mobile identity@edge --topology shop.toml --paths-out paths.toml
                                             several, and the file for `tierwise infer --paths`
  tierwise undeploy study-digits sptq@edge
\b
In shop.toml every tier that takes part has the address of its node, as this machine and the tier below reach it:
  [[tiers]]
  name = "edge"
  address = "10.0.0.7:8001"      (started there: tierwise node --listen 0.0.0.0:8001 --tier edge)
"""


@click.command(epilog=_EPILOG)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("strategies", metavar="STRATEGY...", nargs=-1, required=True)
@click.option("--topology", required=True, help="TOML file whose tiers name the addresses of their nodes.")
@click.option("--name", help="What clients ask for [STRATEGY]; for one strategy only.")
@click.option(
    "--paths-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the deployed strategies as the paths of one adaptive pipeline (TOML).",
)
@click.option("--dry-run", is_flag=True, help="Look at the nodes and say what would be done; change nothing.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="How far the golden answer may be off, as a share of the expected values' range.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds that requests under way get before the version before is taken off.",
)
@click.option("--replace", is_flag=True, help="Take the name over from a model that was not deployed from here.")
@credentials
def command(
    directory: Path,
    strategies: tuple[str, ...],
    topology: str,
    name: str | None,
    paths_out: Path | None,
    dry_run: bool,
    tolerance: float,
    drain: float,
    replace: bool,
) -> None:
    """Deploy each STRATEGY of the study in DIRECTORY to nodes that run, check it end to end, and print the client call.

    The new version is loaded beside the served one and asked a golden input; the name is switched to it only when the
    answer is the artifact's own. Whatever fails before, all nodes are left as they were. Deploying again under the same
    name replaces what is served without a gap.
    """
    from tierwise.study import adaptive_paths, plan_deployment, write_paths
    from tierwise.topology import load

    if name is not None and len(strategies) > 1:
        raise InputError("one strategy can be given a --name", got=f"{len(strategies)} strategies")
    if len(set(strategies)) < len(strategies):
        raise InputError("every strategy must be named once", got=", ".join(strategies))
    if paths_out is not None and not paths_out.absolute().parent.is_dir():
        raise InputError("the folder must exist", where=paths_out.parent)
    tiers = load(topology)
    plans = [plan_deployment(directory, strategy, tiers, name) for strategy in strategies]
    # Before anything is pushed: what cannot be written as paths is not deployed as such.
    paths = None if paths_out is None else adaptive_paths(plans, tiers)
    for plan in plans:
        if dry_run:
            _say_plan(plan, replace)
        else:
            _deploy(plan, tolerance, drain, replace)
    if paths_out is not None and paths is not None and not dry_run:
        write_paths(paths_out, paths)
        click.echo(
            f"\nAsk whichever is best at the moment:\n  tierwise infer --paths {shlex.quote(str(paths_out))} ..."
        )


def _deploy(plan: DeploymentPlan, tolerance: float, drain: float, replace: bool) -> None:
    from tierwise.cli._plain import LineProgress
    from tierwise.study import client_calls, deploy_plan

    done = deploy_plan(plan, LineProgress(), tolerance_frac=tolerance, drain_s=drain, replace=replace)
    call, program = client_calls(plan)
    path = " > ".join(f"{hop.tier} ({hop.placed.control})" for hop in plan.hops)
    click.echo(f"{plan.name} is served by {path}")
    click.echo(f"golden input: right, off by {done.deviation_frac or 0.0:.2g} of the answer's range")
    click.echo(f"\nAsk it:\n  {call}\n\nor from Python (pip install 'tritonclient[grpc]'):\n")
    click.echo("\n".join(f"  {line}".rstrip() for line in program.splitlines()))
    click.echo(f"\nTake it back:\n  tierwise undeploy {shlex.quote(str(plan.directory))} {shlex.quote(plan.name)}")


def _say_plan(plan: DeploymentPlan, replace: bool) -> None:
    """What would be pushed where; raises what deploying would be refused with."""
    from tierwise.study import survey_nodes

    size = format_bytes(plan.pushed_bytes)
    click.echo(
        f"{plan.name}: {len(plan.artifact.manifest.segments)} segments, {size} to each of {len(plan.hops)} nodes"
    )
    for hop in plan.hops:
        onward = f", forwards to {hop.placed.share.forward}" if hop.placed.share.forward else ""
        click.echo(f"  {hop.tier:<10} {hop.placed.control:<24} {hop.role}{onward}")
    surveys = survey_nodes(plan, replace=replace)
    for hop, found in zip(plan.hops, surveys, strict=True):
        rate = f"round trip {format_seconds(found.rtt_s)}, takes {format_rate(found.up_bps)}"
        click.echo(f"  {hop.tier:<10} answers, {rate}")
    served = surveys[0].label
    click.echo("the name is free" if served is None else f"replaces {served or 'what is served under the name'}")
    click.echo(f"estimated time: {format_seconds(plan.seconds(surveys))} (measured rates; the first node loads twice)")
