"""``tierwise node``."""

from __future__ import annotations

import re
from pathlib import Path

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise node --listen 127.0.0.1:8001
  tierwise node --listen 0.0.0.0:8001 --tier edge --repository /var/lib/tierwise
  tierwise node --listen 127.0.0.1:0 --listen unix:/run/tierwise.sock   (port 0: the system picks one, printed)
"""


def _addresses(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    for address in given:
        if not re.fullmatch(r"unix:.+|.+:\d{1,5}", address):
            raise click.BadParameter(f"{address!r} is neither HOST:PORT nor unix:PATH")
    return given


@click.command(epilog=_EPILOG)
@click.option(
    "--listen",
    "listen",
    metavar="ADDRESS",
    multiple=True,
    callback=_addresses,
    default=("127.0.0.1:8001",),
    show_default=True,
    help="HOST:PORT or unix:PATH; may be given several times.",
)
@click.option(
    "--rest",
    metavar="ADDRESS",
    multiple=True,
    callback=_addresses,
    help="HOST:PORT or unix:PATH for REST beside gRPC; may be given several times.",
)
@click.option("--tier", default="node", show_default=True, help="Name this node carries in timings and errors.")
@click.option(
    "--cpus", type=click.FloatRange(min=0, min_open=True), help="CPUs to use [default: what the quota allows]."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads per model [default: the CPUs, rounded down].")
@click.option(
    "--pace",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Emulate a slower machine: stretch computing by 1/PACE.",
)
@click.option(
    "--repository", type=click.Path(path_type=Path), help="Folder for received artifacts [default: temporary]."
)
def command(
    listen: tuple[str, ...],
    rest: tuple[str, ...],
    tier: str,
    cpus: float | None,
    threads: int | None,
    pace: float,
    repository: Path | None,
) -> None:
    """Serve models on this tier: a small server without torch that speaks the Open Inference Protocol v2.

    Models arrive through the protocol's repository extension and are verified before they are served. Stop it with
    Ctrl-C or SIGTERM.
    """
    from tierwise.runtime import NodeSpec, serve

    serve(
        NodeSpec(
            listen=listen,
            rest=rest,
            tier=tier,
            cpus=cpus,
            threads=threads,
            pace_frac=pace,
            repository=None if repository is None else str(repository),
        )
    )
