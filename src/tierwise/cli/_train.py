"""``tierwise train``: compile a training step, and run it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tierwise.cli._train_compare import compare_command, report_command
from tierwise.cli._train_node import delta, start, status, stop, worker
from tierwise.cli._train_search import command as search_command
from tierwise.cli._train_task import TASK_HELP, read_task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tierwise.artifact import Artifact

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise train compile digits --scheme last-3 --optimizer momentum -o learner
  tierwise train search digits --memory 200kB -o scheme.toml
  tierwise train run learner --task digits --steps 500 --checkpoint learner.state --delta learnt.safetensors
  tierwise train run learner --folder pictures --steps 500 --checkpoint learner.state
  tierwise train start 10.0.0.7:8001 digits --folder today --steps 500 --swap-every 50 --share 0.25
  tierwise train delta 10.0.0.7:8001 digits -o learnt.safetensors
"""


@click.group("train", epilog=_EPILOG)
def command() -> None:
    """Go on training a deployed model on its own node.

    `compile` needs torch and is done once, anywhere; `run` needs neither torch nor the model's source. `start`,
    `status`, `stop` and `delta` are for a model that a running node serves.
    """


for _one in (search_command, compare_command, report_command, start, status, stop, delta, worker):
    command.add_command(_one)


@command.command("compile", epilog=TASK_HELP)
@click.argument("task")
@click.option(
    "--scheme",
    "scheme_text",
    default="last-2",
    show_default=True,
    help="full, last-N, bias, bias-N, a published scheme (mobilenetv2, bert, ...) or a .toml.",
)
@click.option(
    "--optimizer",
    "kind",
    type=click.Choice(["sgd", "momentum", "adam", "lion"]),
    default="momentum",
    show_default=True,
    help="How gradients become updates.",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=0.001, show_default=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Items of a step.")
@click.option("--memory", help="Refuse a plan above this, for example 64MB: intermediate tensors and state.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "onnxruntime", "aotinductor", "hybrid"]),
    default="onnxruntime",
    show_default=True,
    help="What runs the step; auto measures all here (minutes). The others than onnxruntime need torch on the node.",
)
@click.option("--bit-masks", is_flag=True, help="Keep masks of activations as bits: less memory, a slower step.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".tierwise"), show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory of the artifact.")
def _compile(
    task: str,
    scheme_text: str,
    kind: Any,
    rate: float,
    batch: int,
    memory: str | None,
    backend: Any,
    bit_masks: bool,
    cache: Path,
    out: Path,
) -> None:
    """Compile a training step for TASK, checked against eager PyTorch."""
    from tierwise._units import parse_bytes
    from tierwise.artifact import Optimiser
    from tierwise.cli._progress import progress_for_stderr
    from tierwise.tasks import load_task
    from tierwise.training import plan_of, read_scheme
    from tierwise.training.compiler import compile_task

    scheme, most = read_scheme(scheme_text), None if memory is None else parse_bytes(memory)
    progress = progress_for_stderr()
    loaded = load_task(read_task(task), cache, progress)
    how = Optimiser(kind=kind, rate=rate)
    made = compile_task(
        loaded, scheme, how, batch, out, progress, most_bytes=most, backend=backend, bit_masks=bit_masks
    )
    click.echo(plan_of(made))
    click.echo(f"Artifact: {out.resolve()}")


@command.command("run")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--task", "task_name", help="Learn from the train split of this task, as in compile.")
@click.option("--folder", type=click.Path(path_type=Path), help="Learn from pictures in a folder for each class.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=100, show_default=True, help="In all, resumed ones included."
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Learning rate; default: the compiled one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of items.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--backend",
    type=click.Choice(["auto", "onnxruntime", "aotinductor", "hybrid"]),
    default="auto",
    show_default=True,
    help="auto: what the compiler chose, where this machine can run it, else onnxruntime.",
)
@click.option("--lean", is_flag=True, help="Take the least memory, as planned; somewhat slower.")
@click.option("--feature-cache", help="Most memory for what the frozen part gives, such as 64MB [default: none].")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Resumed from where it exists; survives a kill.")
@click.option("--every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps between checkpoints.")
@click.option("--delta", type=click.Path(path_type=Path), help="Write the trained tensors here at the end.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".tierwise"), show_default=True)
def _run(
    artifact: Path,
    task_name: str | None,
    folder: Path | None,
    steps: int,
    rate: float | None,
    seed: int,
    threads: int,
    backend: Any,
    lean: bool,
    feature_cache: str | None,
    checkpoint: Path | None,
    every: int,
    delta: Path | None,
    cache: Path,
) -> None:
    """Train ARTIFACT, without torch. An interrupt ends after the step, with a checkpoint where one is asked for."""
    from tierwise._units import parse_bytes
    from tierwise.artifact import open_artifact
    from tierwise.cli._plain import LineProgress
    from tierwise.training import Feed, TrainingSession

    if (task_name is None) == (folder is None):
        raise click.UsageError("Give either --task or --folder.")
    opened = open_artifact(artifact)
    items, labels = _items(opened, task_name, folder, cache)
    room = 0 if feature_cache is None else int(parse_bytes(feature_cache))
    session = TrainingSession(opened, threads, backend, lean=lean, cache_bytes=room)
    click.echo(f"Backend: {session.backend}.", err=True)
    if checkpoint is not None and checkpoint.exists():
        session.resume(checkpoint)
        click.echo(f"Resumed at step {session.steps}.", err=True)
    feed, tensors = Feed(len(items), session.spec.batch, seed), _preparer(opened)
    losses: list[float] = []
    with _interruptible() as stopped, LineProgress().step("training", max(steps - session.steps, 0)) as advance:
        while session.steps < steps and not stopped:
            chosen = feed.indices(session.steps).tolist()
            inputs = {} if session.knows(chosen) else tensors([items[i] for i in chosen])
            losses.append(session.step(inputs, labels[chosen], rate, chosen))
            advance(1)
            if checkpoint is not None and session.steps % every == 0:
                session.save(checkpoint)
    if checkpoint is not None:
        session.save(checkpoint)
    if delta is not None:
        session.export_delta(delta)
    shown = (
        f"; mean loss of the last {len(losses[-20:])}: {sum(losses[-20:]) / len(losses[-20:]):.4f}" if losses else ""
    )
    click.echo(f"Steps: {session.steps}{shown}.")
    if stopped:
        raise click.Abort


def _items(
    artifact: Artifact, task_name: str | None, folder: Path | None, cache: Path
) -> tuple[Any, npt.NDArray[np.int64]]:
    from tierwise.tasks import load_task
    from tierwise.training import read_folder

    if folder is not None:
        return read_folder(folder, artifact.manifest.labels, artifact.manifest.input)
    split = load_task(read_task(task_name or ""), cache).splits["train"]
    return split.items, split.labels


def _preparer(artifact: Artifact) -> Any:
    from tierwise.artifact import Preprocessor, to_payload

    encoding = artifact.manifest.input
    prepare = Preprocessor(encoding, artifact.directory)
    return lambda items: prepare(to_payload(encoding, items))


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that a first interrupt puts something into; a second one ends the program as usual."""
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for one, old in before.items():
            signal.signal(one, old)
