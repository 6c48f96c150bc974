"""``tierwise study export``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise study export study-digits --out figures
  tierwise study import --latency figures/latency.csv --accuracy figures/accuracy.csv --out again
"""


@click.command("export", epilog=_EPILOG)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the three files."
)
def command(directory: Path, out: Path) -> None:
    """Write the figures of the study in DIRECTORY as plain files, to keep or to publish without its artifacts.

    figures.json holds every figure with its circumstances; latency.csv one row an answered request and accuracy.csv one
    row an accuracy, as `tierwise study import` reads them.
    """
    from tierwise.study import export_study, load_study

    click.echo(f"The figures: {export_study(load_study(directory), out).resolve()}")
