"""``tierwise train compare`` and ``tierwise train report``: training schemes beside each other, and their page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tierwise.cli._train_task import TASK_HELP, read_task

if TYPE_CHECKING:
    from tierwise.training import Trial

__all__ = ["compare_command", "report_command"]

_EPILOG = """\b
Examples:
  tierwise train compare digits --scheme full --scheme last-2 --scheme bias --steps 300 -o schemes
  tierwise train compare transfer.toml --scheme full --scheme sparse.toml --rate 0.001 --rate 0.01 --seeds 3 -o schemes
"""


@click.command("compare", epilog=_EPILOG + "\n" + TASK_HELP)
@click.argument("task")
@click.option("--scheme", "schemes", multiple=True, required=True, help="As in compile; give several.")
@click.option(
    "--optimizer", "kind", type=click.Choice(["sgd", "momentum", "adam", "lion"]), default="adam", show_default=True
)
@click.option(
    "--rate",
    "rates",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    default=(0.0003, 0.001, 0.003),
    show_default=True,
    help="Rates to choose from by the validation split; give several.",
)
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=16, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".tierwise"), show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory of the comparison.")
def compare_command(
    task: str,
    schemes: tuple[str, ...],
    kind: Any,
    rates: tuple[float, ...],
    steps: int,
    batch: int,
    seeds: int,
    cache: Path,
    out: Path,
) -> None:
    """Compile and train several schemes on TASK, and write a page: metric against memory and time.

    Stopped, the same command goes on with what is missing.
    """
    from tierwise.artifact import Optimiser
    from tierwise.cli._progress import progress_for_stderr
    from tierwise.tasks import load_task
    from tierwise.training import read_scheme
    from tierwise.training.compiler import Comparison, compare

    named = {Path(text).stem if text.endswith(".toml") else text: read_scheme(text) for text in schemes}
    progress = progress_for_stderr()
    loaded = load_task(read_task(task), cache, progress)
    asked = Comparison(
        task=loaded.name,
        fingerprint=loaded.fingerprint,
        schemes=named,
        # The rate at which the compiled step is held against eager PyTorch: at a large one, rounding grows to chaos.
        optimiser=Optimiser(kind=kind, rate=min(rates)),
        rates=rates,
        seeds=seeds,
        steps=steps,
        batch=batch,
    )
    compare(loaded, asked, out, progress)
    _shown(out, out / "report.html")


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page [DIRECTORY/report.html].")
def report_command(directory: Path, out: Path | None) -> None:
    """Make the page of a comparison again from what it has found so far."""
    _shown(directory, out if out is not None else directory / "report.html")


def _shown(directory: Path, page: Path) -> None:
    from tierwise.report import write_training_report
    from tierwise.training.compiler import read_comparison

    trials, traces = read_comparison(directory)
    written = write_training_report(trials, traces, page)
    click.echo(_table(trials))
    click.echo(f"\nThe report: {written.resolve()}")


def _table(trials: tuple[Trial, ...]) -> str:
    from tierwise._units import format_bytes, format_frac, format_seconds
    from tierwise.report import scheme_rows

    lines = [f"{'scheme':<20}{trials[0].metric:>10}{'memory':>12}{'step':>12}{'trained':>14}"]
    lines += [
        f"{row.scheme[:19]:<20}{format_frac(row.test):>10}{format_bytes(row.memory_bytes):>12}"
        f"{format_seconds(row.step_s):>12}{row.trained_values:>14,}"
        for row in scheme_rows(trials)
    ]
    return "\n".join(lines)
