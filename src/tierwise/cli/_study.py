"""``tierwise study``: run a campaign, and make its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from tierwise._errors import InputError, UnavailableError
from tierwise._units import format_bytes
from tierwise.cli import _export, _import, _report
from tierwise.study import Campaign, campaign_names, load_campaign

__all__ = ["command"]


@click.group()
def command() -> None:
    """Build, measure and compare deployment strategies."""


command.add_command(_export.command)
command.add_command(_import.command)
command.add_command(_report.command, "report")

_RUN_EPILOG = """\b
Examples:
  tierwise study run digits                            the default; about three minutes on two cores
  tierwise study run fashion-mnist --topology paper    other tiers and links
  tierwise study run my-campaign.toml --out shop       your own
  tierwise study run digits                            again, after a stop: goes on where it was
  tierwise study run digits --on ray                   build variants in parallel (pip install 'tierwise[ray]')
  tierwise study run digits --track mlflow             log it to MLflow (pip install 'tierwise[mlflow]')
"""


_BUILD_EPILOG = """\b
Examples:
  tierwise study build digits                          then: tierwise study run digits
  tierwise study build my-campaign.toml --out shop     then: tierwise study run my-campaign.toml --out shop
  tierwise study build digits --on ray                 build variants in parallel (pip install 'tierwise[ray]')
"""


def _where(function: Callable[..., None]) -> Callable[..., None]:
    """The options that building and running share."""
    options = (
        click.argument("campaign", default="digits"),
        click.option(
            "--out", type=click.Path(file_okay=False, path_type=Path), help="Directory of the study [study-NAME]."
        ),
        click.option("--topology", help="A preset or TOML file in place of the campaign's."),
        click.option(
            "--cache",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path(".tierwise"),
            show_default=True,
            help="Downloads and trained models, shared by studies.",
        ),
        click.option(
            "--on", metavar="ray[=ADDRESS]", help="Build variants as Ray tasks, here or on the cluster at ADDRESS."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command("build", epilog=_BUILD_EPILOG)
@_where
def build(campaign: str, out: Path | None, cache: Path, on: str | None, topology: str | None) -> None:
    """Train and build what CAMPAIGN will measure, and stop before any time is measured.

    Every variant's accuracy is measured once on the test split. `tierwise study run` with the same arguments finds all
    of it; a cut that is left to the cost model is made there. So the long part may run on a busy machine.
    """
    from tierwise.study import build_study

    spec = _overridden(load_campaign(campaign), {"topology": topology})
    directory = out if out is not None else Path(f"study-{spec.name}")
    for artifact in build_study(spec, directory, cache=cache, progress=_progress(), on=on):
        known = artifact.manifest
        scores = ", ".join(f"{one.metric} {one.value:.4f} on {one.items} {one.split} items" for one in known.accuracy)
        integer = "" if known.coverage is None else f", {100 * known.coverage.int8_macs_frac:.1f} % in int8"
        size = format_bytes(artifact.nbytes)
        click.echo(f"{known.provenance.chain}: {scores}{integer}, {size}, {known.provenance.training_s:.0f} s training")


@command.command("run", epilog=_RUN_EPILOG)
@_where
@click.option("--profile", type=click.Choice(["quick", "study", "full"]), help="How much is measured.")
@click.option("--seed", type=int, help="Root of order, inputs and arrivals.")
@click.option("--link-means", type=click.Choice(["netem", "tun", "proxy"]), help="How links are shaped [best here].")
@click.option(
    "--limiter", type=click.Choice(["cgroup-v2", "cgroup-v1", "duty"]), help="How tiers are limited [best here]."
)
@click.option("--track", metavar="mlflow[=URI]", help="Log the study to MLflow [sqlite:///mlflow.db in its directory].")
def run(campaign: str, out: Path | None, cache: Path, on: str | None, track: str | None, **overrides: Any) -> None:
    """Run CAMPAIGN (one of the embedded ones, or a TOML file), or go on with it, and write its report.

    Every variant is built and its accuracy measured once on the test split; then all strategies run as real processes
    over verified links, interleaved in randomised blocks. Stop it at any moment: the same command goes on.
    """
    from tierwise.report import text_table, write_report
    from tierwise.study import load_study, run_study, track_study, track_target

    spec = _overridden(load_campaign(campaign), overrides)
    directory = out if out is not None else Path(f"study-{spec.name}")
    tracking = None if track is None else track_target(track, directory)
    run_study(spec, directory, cache=cache, progress=_progress(), on=on)
    data = load_study(directory)
    page = write_report(data, directory / "report.html")
    click.echo(text_table(data))
    click.echo(f"\nThe report: {page.resolve()}")
    if tracking is not None:
        click.echo(f"MLflow: run {track_study(data, tracking, [page])} in {tracking}")


@command.command("campaigns")
@click.option("--show", metavar="NAME", help="Print the TOML of one, to start a file of your own from.")
def campaigns(show: str | None) -> None:
    """List the embedded campaigns.

    \b
    Example:
      tierwise study campaigns --show digits > my-campaign.toml
    """  # noqa: D301 - \b keeps click from wrapping the example
    from tierwise.study import campaign_text

    if show is not None and show not in campaign_names():
        raise InputError(f"an embedded campaign must be one of {', '.join(campaign_names())}", got=repr(show))
    click.echo(campaign_text(show) if show is not None else "\n".join(campaign_names()), nl=show is None)


def _overridden(campaign: Campaign, overrides: dict[str, Any]) -> Campaign:
    given = {name: value for name, value in overrides.items() if value is not None}
    return msgspec.structs.replace(campaign, **given)


def _progress() -> Any:
    try:
        from tierwise.cli._progress import progress_for_stderr
    except ImportError as error:
        raise UnavailableError(
            f"a study needs the packages that build and report ({error.name} is missing)",
            fix="Install them with: pip install 'tierwise[study]'",
        ) from error
    return progress_for_stderr()
