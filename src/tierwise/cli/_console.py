"""``tierwise console``."""

from __future__ import annotations

import click

from tierwise.cli._credentials import credentials

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise console --node 10.0.0.5:8001 --node 10.0.0.7:8001       from the device upward
  tierwise console --topology shop.toml                             the tiers that have an address
  tierwise console --topology shop.toml --client http://127.0.0.1:9100/metrics
"""


@click.command(epilog=_EPILOG)
@click.option("--node", "nodes", metavar="ADDRESS", multiple=True, help="HOST:PORT or unix:PATH; repeat it.")
@click.option("--topology", help="TOML file (or preset) whose tiers name the addresses of their nodes.")
@click.option("--client", "clients", metavar="URL", multiple=True, help="Metrics of an application; repeat it.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where the page is.")
@click.option("--host", "hosts", metavar="NAME", multiple=True, help="Name that browsers may know the page by.")
@click.option("--every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds between looks.")
@credentials
def command(
    nodes: tuple[str, ...],
    topology: str | None,
    clients: tuple[str, ...],
    listen: str,
    hosts: tuple[str, ...],
    every: float,
) -> None:
    """Show nodes, links, deployments and where the time goes on one live page.

    The page only reads. Whoever reaches its address can read it, so it listens on this machine alone unless told
    otherwise. Stop it with Ctrl-C or SIGTERM.
    """
    from tierwise._config import convert
    from tierwise._errors import InputError
    from tierwise.console import ConsoleSpec, serve_console
    from tierwise.topology import load
    from tierwise.wire import is_local

    if bool(nodes) == bool(topology):
        raise InputError("either --node or --topology must be given")
    if topology is None:
        asked = {
            "nodes": [{"address": address} for address in nodes],
            "clients": list(clients),
            "listen": listen,
            "hosts": list(hosts),
            "every_s": every,
        }
        spec = convert(asked, ConsoleSpec, where="tierwise console")
    else:
        spec = ConsoleSpec.of_topology(load(topology), clients=clients, listen=listen, hosts=hosts, every_s=every)
    if not is_local(listen):
        click.echo(f"tierwise: caution: {listen}: whoever reaches this address can read the page", err=True)
    serve_console(spec)
