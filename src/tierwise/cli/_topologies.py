"""``tierwise topologies``."""

from __future__ import annotations

from importlib import resources

import click

from tierwise._errors import SpecError
from tierwise._units import format_bytes, format_frac, format_rate, format_seconds
from tierwise.topology import Link, Topology, load, preset_names

__all__ = ["command"]

_EPILOG = """\b
Examples:
  tierwise topologies                          the presets, in words
  tierwise topologies my-shop.toml             check and describe a file of yours
  tierwise topologies --show wifi-lte > my-shop.toml     a file to start from
"""


@click.command(epilog=_EPILOG)
@click.argument("names", nargs=-1)
@click.option("--show", metavar="PRESET", help="Print the TOML of a preset, to start a file of your own from.")
def command(names: tuple[str, ...], show: str | None) -> None:
    """Describe topologies: the presets, or the NAMES (presets or TOML files) given."""
    if show is not None:
        if show not in preset_names():
            raise SpecError(f"a preset must be one of {', '.join(preset_names())}", got=repr(show))
        text = (resources.files("tierwise.topology") / "presets" / f"{show}.toml").read_text("utf-8")
        click.echo(text, nl=False)
        return
    for name in names or preset_names():
        click.echo(_describe(load(name)))


def _describe(topology: Topology) -> str:
    lines = [f"{topology.name}    {topology.source}"]
    for i, tier in enumerate(topology.tiers):
        where = f"node at {tier.address}" if tier.address else "emulated"
        lines.append(f"  {tier.name:<10} {tier.cpus:g} CPU, {format_bytes(tier.memory_bytes)}, {where}")
        if i < len(topology.links):
            lines.append(f"    {_describe_link(topology.links[i])}")
    return "\n".join(lines) + "\n"


def _describe_link(link: Link) -> str:
    delay = f"RTT {format_seconds(link.rtt_s)}" if link.rtt_s else "no added delay"
    extra = f", jitter {format_seconds(link.jitter_s)}" if link.jitter_s else ""
    extra += f", loss {format_frac(link.loss_frac)}" if link.loss_frac else ""
    return f"| up {format_rate(link.up_bps)}, down {format_rate(link.down_bps)}, {delay}{extra}"
