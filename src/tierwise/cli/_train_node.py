"""``tierwise train`` against a node that serves the model; and the process that the node starts for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierwise.cli._credentials import credentials

if TYPE_CHECKING:
    from tierwise.wire import TrainingStatus

__all__ = ["delta", "start", "status", "stop", "worker"]


@click.command("start")
@click.argument("node", metavar="ADDRESS")
@click.argument("model")
@click.option("--folder", help="Folder below the node's --training-folder [default: batches are sent].")
@click.option("--steps", type=click.IntRange(min=1), help="In all, resumed ones included [default: no end].")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Learning rate [default: the compiled one].")
@click.option("--every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps between checkpoints.")
@click.option(
    "--swap-every", type=click.IntRange(min=1), help="Steps between swaps of the served weights [default: never]."
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.25,
    show_default=True,
    help="Most of one CPU that training takes.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order of items.")
@click.option("--lean", is_flag=True, help="Take the least memory, some speed for it.")
@click.option("--feature-cache", help="Most memory for what the frozen part gives, such as 64MB [default: none].")
@click.option("--fresh", is_flag=True, help="Begin from the artifact's weights though there is a checkpoint.")
@credentials
def start(
    node: str,
    model: str,
    folder: str | None,
    steps: int | None,
    rate: float | None,
    every: int,
    swap_every: int | None,
    share: float,
    seed: int,
    lean: bool,
    feature_cache: str | None,
    fresh: bool,
) -> None:
    """Train MODEL on the node at ADDRESS, beside its serving."""
    from tierwise._units import parse_bytes
    from tierwise.wire import TrainingClient, TrainingOrder

    order = TrainingOrder(
        rate=rate,
        share_frac=share,
        checkpoint_every=every,
        swap_every=swap_every,
        folder=folder,
        steps=steps,
        seed=seed,
        lean=lean,
        feature_cache_bytes=0 if feature_cache is None else int(parse_bytes(feature_cache)),
        fresh=fresh,
    )
    with TrainingClient(node, timeout_s=600.0) as client:
        _show(client.begin(model, order))


@click.command("status")
@click.argument("node", metavar="ADDRESS")
@click.argument("model")
@credentials
def status(node: str, model: str) -> None:
    """How the training of MODEL on the node at ADDRESS goes."""
    from tierwise.wire import TrainingClient

    with TrainingClient(node) as client:
        _show(client.status(model))


@click.command("stop")
@click.argument("node", metavar="ADDRESS")
@click.argument("model")
@click.option("--swap", is_flag=True, help="Let the served model take over the weights first.")
@credentials
def stop(node: str, model: str, swap: bool) -> None:
    """End the training of MODEL behind a checkpoint; what is served stays as it is."""
    from tierwise.wire import TrainingClient

    with TrainingClient(node) as client:
        if swap:
            client.swap(model)
        _show(client.stop(model))


@click.command("delta")
@click.argument("node", metavar="ADDRESS")
@click.argument("model")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write what was learnt here.")
@click.option(
    "--apply", "applied", type=click.Path(exists=True, path_type=Path, dir_okay=False), help="Take over this delta."
)
@credentials
def delta(node: str, model: str, out: Path | None, applied: Path | None) -> None:
    """Fetch what MODEL has learnt, or have it take over what was learnt elsewhere; its training must run."""
    from tierwise.wire import TrainingClient

    if (out is None) == (applied is None):
        raise click.UsageError("Give either --out or --apply.")
    with TrainingClient(node) as client:
        if applied is not None:
            _show(client.apply_delta(model, applied.read_bytes()))
        elif out is not None:
            content = client.export_delta(model)
            out.write_bytes(content)
            click.echo(f"{out}: {len(content):,} bytes")


@click.command("worker", hidden=True)
def worker() -> None:
    """The process that a node starts to train; it speaks over its standard input and output."""
    from tierwise.training import train_for_node

    # What libraries print must not get between the notes.
    tells = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with tells:
        train_for_node(sys.stdin.buffer, tells)
        tells.flush()
        os._exit(0)


def _show(told: TrainingStatus) -> None:
    progress, losses = told.progress, told.progress.losses
    click.echo(
        f"{told.model} {told.version}: {told.state}, {progress.steps} steps ({progress.saved_steps} saved), "
        f"weights served: {told.weights or 'those of the artifact'}"
    )
    if losses:
        click.echo(
            f"Mean loss of the last {len(losses)}: {sum(losses) / len(losses):.4f}; "
            f"a step takes {1e3 * progress.step_s:.1f} ms of CPU; CPU share {progress.used_frac:.2f} "
            f"of at most {told.order.share_frac:g}"
        )
    if told.reason:
        click.echo(f"Restarts: {told.restarts}; {told.reason}")
