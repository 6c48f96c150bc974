"""``tierwise train search``: the scheme that a model learns best by within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tierwise.cli._train_task import TASK_HELP, read_task

if TYPE_CHECKING:
    from tierwise.tasks import Split, Task
    from tierwise.training.search import TaskSearch

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise train search digits --memory 200kB -o scheme.toml
  tierwise train compile digits --scheme scheme.toml --memory 200kB -o learner
"""


@click.command("search", epilog=_EPILOG + "\n" + TASK_HELP)
@click.argument("task")
@click.option("--memory", required=True, help="Most that a step may take, for example 64MB; as in compile.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Most CPU time of a step, on one thread.")
@click.option(
    "--optimizer",
    "kind",
    type=click.Choice(["sgd", "momentum", "adam", "lion"]),
    default="momentum",
    show_default=True,
    help="Of the step that shall be compiled.",
)
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Items of that step.")
@click.option("--folder", type=click.Path(path_type=Path), help="Probe with pictures in a folder for each class.")
@click.option("--layers", multiple=True, help="Layers whose weights may be trained, with * for anything; repeatable.")
@click.option("--steps", type=click.IntRange(min=1), default=100, show_default=True, help="Of each short training.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=0.01, show_default=True, help="Of these.")
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Short trainings of each.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".tierwise"), show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The scheme, a .toml file.")
def command(
    task: str,
    memory: str,
    seconds: float | None,
    kind: Any,
    batch: int,
    folder: Path | None,
    layers: tuple[str, ...],
    steps: int,
    rate: float,
    seeds: int,
    cache: Path,
    out: Path,
) -> None:
    """Search the scheme that TASK learns best by within a budget.

    What each part of a scheme brings is measured by short trainings on items of the train split with a new classifier,
    judged on validation; or on pictures of a folder, with the classifier as it is. All of it is kept: a search that was
    stopped goes on, and another budget needs no trainings.
    """
    from tierwise._errors import InputError
    from tierwise._units import parse_bytes
    from tierwise.artifact import Optimiser
    from tierwise.cli._progress import progress_for_stderr
    from tierwise.tasks import load_task
    from tierwise.training.search import Budget, Probe, search_task, write_scheme

    budget = Budget(bytes=parse_bytes(memory), cpu_s=seconds)
    if out.suffix != ".toml":
        raise InputError("a scheme's file must end in .toml", got=out.name, where="--out")
    progress = progress_for_stderr()
    loaded = load_task(read_task(task), cache, progress)
    learnt = None if folder is None else _pictures(loaded, folder)
    probe = Probe(
        steps=steps,
        seeds=tuple(range(seeds)),
        renew=learnt is None,
        optimiser=Optimiser(kind="momentum", rate=rate),
    )
    found = search_task(
        loaded, budget, Optimiser(kind=kind), batch, cache, progress, probe=probe, layers=layers, learnt=learnt
    )
    notes = _notes(found, seconds is not None)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_scheme(out, found.best.found.scheme, (f"Searched for {task}, batch {batch}, within {memory}.", *notes))
    click.echo("\n".join(notes))
    click.echo(f"Scheme: {out.resolve()}")


def _pictures(task: Task, folder: Path) -> Split:
    from tierwise.tasks import Split
    from tierwise.training import read_folder

    return Split(*read_folder(folder, task.labels, task.encoding))


def _notes(found: TaskSearch, timed: bool) -> tuple[str, ...]:
    from tierwise._units import format_bytes, format_frac, format_seconds

    best, outcome, first = found.best.found, found.outcome, found.contributions.depths[0]
    layers = ", ".join(f"{name} x {ratio:g}" for name, ratio in best.scheme.weights.items()) or "none"
    time = f", {format_seconds(best.cpu_s)} of CPU time as fitted" if timed else ""
    biases = f"Biases of the last {best.scheme.biases} layers; weights: {layers}."
    alone = "The classifier alone: nothing else made it better. Probe with what is to be learnt, by --folder."
    return (
        biases if best.scheme.weights or best.scheme.biases != 1 else alone,
        f"Takes {format_bytes(best.captured_bytes)} as captured, {format_bytes(best.table_bytes)} by the table{time}.",
        f"Trained: {format_frac(found.best.accuracy)}, the best of {len(found.tried)} tried, one for each depth.",
        f"Gain over the classifier alone ({format_frac(first)}): {format_frac(best.gain)}, were gains to add up.",
        f"Most gain in the table: {format_frac(outcome.exact.gain)}; by evolution {100 * outcome.gap:.2f} points less.",
    )
