"""What every means of emulating links promises, checked by processes that talk over links it makes."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from tierwise._errors import UnavailableError
from tierwise.testbed import Child, LinkMeans, Network, Spawner, measure_link, rtt_slack_s
from tierwise.topology import Link, Tier, Topology

__all__ = ["check_link_means"]

_PEER = "tierwise.testing._link_peer"
_TOLERANCE_FRAC = 0.10
_WAIT_S = 60.0
# What else runs on the machine may be over after that.
_PAUSE_S = 2.0
# A full segment carries this much of a packet of 1500 bytes.
_PAYLOAD_FRAC = 1448 / 1500


def check_link_means(means: LinkMeans, *, tries: int = 3) -> None:
    """Check that links made by ``means`` keep the contract of `LinkMeans` and `Network`.

    Over two links in a row, one slow with a delay and unlike rates, one fast without: rates and round trip come out
    within a tenth (the round trip within `rtt_slack_s`, if that is more); bytes arrive complete and in order both ways,
    also after one side has stopped sending; connections share the rate; a second network at the same time disturbs
    nothing; the way outside works; and when the network is closed, its processes have ended and nobody answers any
    more.

    Args:
        means: What to check; it must be available here.
        tries: Measurements of each link; one must be right (other work on the machine makes some wrong).

    Raises:
        AssertionError: A promise is broken; the message says which, with both figures.
        UnavailableError: A process could not be started.
    """
    found = means.availability()
    if not found.ok:
        _broken(f"{means.name} must be available to be checked: {found.reason}")
    topology = _topology()
    with tempfile.TemporaryDirectory() as logs, Spawner(Path(logs)) as spawner:
        with means.network(topology, spawner) as network:
            for link in topology.links:
                _check_figures(network, link, spawner, tries)
            _check_bytes(network, topology, spawner)
            _check_sharing(network, topology.links[0], spawner, tries)
            _check_outside(network, topology, spawner)
            with Spawner(Path(logs)) as other, means.network(topology, other) as second:
                _exchange(second, topology.links[0], other, 1000, 1)
                _exchange(network, topology.links[0], spawner, 1000, 1)
            if spawner.dead() is not None:
                _broken("the processes of a network must not end before it is closed")
            server, ask = _reflected(network, topology.links[0], spawner)
        left = [name for name in spawner.running if name != server.name]
        if left:
            _broken(f"a network must end its processes when it is closed, but {', '.join(left)} run on")
        with contextlib.suppress(UnavailableError):
            client = spawner.start("late", ask)
            if client.line(_WAIT_S):
                _broken("nobody may answer over a link of a network that was closed")
        spawner.stop(server)


def _broken(message: str) -> NoReturn:
    raise AssertionError(message)


def _topology() -> Topology:
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=10**9) for name in ("low", "middle", "high"))
    slow = Link(lower="low", upper="middle", up_bps=20e6, down_bps=10e6, rtt_s=0.02)
    fast = Link(lower="middle", upper="high", up_bps=100e6, down_bps=100e6, rtt_s=0.0)
    return Topology(name="check", tiers=tiers, links=(slow, fast))


def _check_figures(network: Network, link: Link, spawner: Spawner, tries: int) -> None:
    for left in reversed(range(tries)):
        figures = measure_link(network, link, spawner)
        slack_s = rtt_slack_s(link, figures)
        wrong = [
            f"{what}: {measured:.4g} where {asked:.4g} was asked for"
            for what, measured, asked, slack in (
                ("bits per second up", figures.up_bps, link.up_bps, 0.0),
                ("bits per second down", figures.down_bps, link.down_bps, 0.0),
                ("seconds of round trip", figures.rtt_s, link.rtt_s, slack_s),
            )
            if abs(measured - asked) > max(_TOLERANCE_FRAC * asked, slack)
        ]
        if not wrong:
            return
        if not left:
            _broken(
                f"link {link.lower} to {link.upper} must be within a tenth of its spec; {'; '.join(wrong)}"
                f" (a round trip through a process that only passes bytes on takes {figures.passed_on_s:.4g} s)"
            )
        time.sleep(_PAUSE_S)


def _check_bytes(network: Network, topology: Topology, spawner: Spawner) -> None:
    for link in topology.links:
        for size_bytes in (1, 100_000):
            if not _exchange(network, link, spawner, size_bytes, 1)[0]:
                _broken(f"{size_bytes} bytes from {link.lower} to {link.upper} and back must arrive as they were sent")


def _check_sharing(network: Network, link: Link, spawner: Spawner, tries: int) -> None:
    size_bytes, connections = 200_000, 2
    least_s = size_bytes * connections * 8 / link.down_bps / _PAYLOAD_FRAC
    most_s = least_s + size_bytes * connections * 8 / link.up_bps / _PAYLOAD_FRAC + 5 * link.rtt_s
    for left in reversed(range(tries)):
        intact, took_s = _exchange(network, link, spawner, size_bytes, connections)
        if not intact:
            _broken(f"{connections} connections at once must not disturb each other's bytes")
        if took_s < 0.9 * least_s:
            _broken(
                f"connections must share the rate: they took {took_s:.3f} s, at least {least_s:.3f} s is the rate's"
            )
        if took_s <= 1.3 * most_s:
            return
        if not left:
            _broken(f"{connections} connections took {took_s:.3f} s where {most_s:.3f} s is enough")


def _check_outside(network: Network, topology: Topology, spawner: Spawner) -> None:
    server = spawner.start_module("outside", _PEER, "reflect", "127.0.0.1")
    try:
        tier = topology.tiers[1].name
        address = network.outside(tier, f"127.0.0.1:{int(server.line(_WAIT_S))}")
        client = spawner.start_module(
            "to-outside", _PEER, "exchange", address, "5000", "1", prefix=network.prefix(tier)
        )
        if not json.loads(client.line(_WAIT_S))[0]:
            _broken("bytes to a server outside and back must arrive as they were sent")
        spawner.stop(client)
    finally:
        spawner.stop(server)


def _reflected(
    network: Network, link: Link, spawner: Spawner, size_bytes: int = 1, connections: int = 1
) -> tuple[Child, list[str]]:
    """A server on the upper tier, and the command of a client that has bytes reflected from the lower one."""
    host = network.listen_host(link.upper)
    name = f"reflect-{link.upper}"
    server = spawner.start_module(name, _PEER, "reflect", host, prefix=network.prefix(link.upper))
    address = network.address(link.lower, link.upper, int(server.line(_WAIT_S)))
    arguments = ("exchange", address, str(size_bytes), str(connections))
    return server, spawner.module_command(_PEER, *arguments, prefix=network.prefix(link.lower))


def _exchange(network: Network, link: Link, spawner: Spawner, size_bytes: int, connections: int) -> tuple[bool, float]:
    """Have bytes reflected by a process on the upper tier; whether all came back, and after how many seconds."""
    server, ask = _reflected(network, link, spawner, size_bytes, connections)
    client = spawner.start(f"exchange-{link.lower}", ask)
    try:
        intact, seconds = json.loads(client.line(_WAIT_S))
        return bool(intact), float(seconds)
    finally:
        spawner.stop(client)
        spawner.stop(server)
