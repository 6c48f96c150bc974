"""Starting the nodes of a topology under their limits, with the first limiter that turns out to be right."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tierwise._errors import EmulationError, UnavailableError
from tierwise._units import format_bytes, format_frac
from tierwise.testbed._calibration import TierCalibration
from tierwise.testbed._groups import ControlGroups
from tierwise.testbed._limits import Grant, Limiter, MemoryLimit, memory_limit, whole_threads
from tierwise.testbed._links import Network
from tierwise.testbed._process import Child, Spawner
from tierwise.testbed._verify import verify_tier
from tierwise.topology import Tier, Topology

__all__ = ["NODE_PROGRAM", "NodeStarter", "Started"]

NODE_PROGRAM: tuple[str, ...] = (sys.executable, "-m", "tierwise", "node")
# A node is ready within a second; an overloaded machine may take its time.
_READY_S = 60.0
_READY_LINE = re.compile(r"^tierwise node \S+ ready on (.+)$")


@final
@dataclass(frozen=True)
class Started:
    """Nodes that run.

    Attributes:
        limiter: Name of the limiter in force.
        memory_limiter: Name of the means of limiting memory.
        tiers: An entry a tier, in the topology's order.
        control: For each tier the address it is controlled at.
        ports: For each emulated tier the port its node listens on.
        nodes: For each emulated tier its process.
    """

    limiter: str
    memory_limiter: str
    tiers: tuple[TierCalibration, ...]
    control: Mapping[str, str]
    ports: Mapping[str, int]
    nodes: Mapping[str, Child]


@final
class NodeStarter:
    """Starts the nodes of one run.

    Args:
        topology: Fitted to the machine.
        network: Where the tiers are.
        spawner: Starts processes.
        run: Name of the run.
        folder: For sockets and what the nodes receive.
        program: The command that starts a node, without its options.
    """

    def __init__(
        self,
        topology: Topology,
        network: Network,
        spawner: Spawner,
        run: str,
        folder: Path,
        program: tuple[str, ...] = NODE_PROGRAM,
    ) -> None:
        self._topology, self._network, self._spawner = topology, network, spawner
        self._run, self._folder, self._program = run, folder, program

    def start(
        self, stack: ExitStack, candidates: Sequence[Limiter], verify: bool, report: Callable[[str], None]
    ) -> Started:
        """Start all nodes under the first of ``candidates`` that verifies; ``stack`` ends them.

        Raises:
            EmulationError: None of them slows the tiers down as asked; the first one's figures.
            UnavailableError: A node does not start, or the kernel refuses a limit.
        """
        memory = memory_limit([ControlGroups(2), ControlGroups(1)])
        first: EmulationError | None = None
        for limiter in candidates:
            with ExitStack() as attempt:
                started = self._start(attempt, limiter, memory)
                try:
                    checked = self._verified(started, report) if verify else started
                except EmulationError as error:
                    report(f"limiter {limiter.name} is not right here: {error.got}")
                    first = first or error
                    continue
                stack.push(attempt.pop_all())
                return checked
        raise first or UnavailableError("one limiter must be available", got="none of them")

    def _start(self, stack: ExitStack, limiter: Limiter, memory: MemoryLimit) -> Started:
        nodes, entries = {}, []
        for tier in self._topology.tiers:
            if tier.address is not None:
                entries.append(_remote(tier))
                continue
            groups = stack.enter_context(memory.limited(self._run, tier))
            grant = stack.enter_context(limiter.grant(self._run, tier))
            nodes[tier.name] = self._spawner.start(
                f"node-{tier.name}", self._command(tier, grant), groups=[*groups, *map(Path, grant.groups)]
            )
            stack.callback(self._spawner.stop, nodes[tier.name])
            entries.append(_emulated(tier, grant, limiter, memory))
        # They start side by side; only then each is waited for.
        ports = {name: _port(name, node) for name, node in nodes.items()}
        control = {
            tier.name: tier.address if tier.address is not None else f"unix:{self._socket(tier.name)}"
            for tier in self._topology.tiers
        }
        return Started(limiter.name, memory.name, tuple(entries), control, ports, nodes)

    def _socket(self, tier: str) -> Path:
        return self._folder / f"{tier}.sock"

    def _command(self, tier: Tier, grant: Grant) -> list[str]:
        options = {
            "--tier": tier.name,
            "--cpus": f"{tier.cpus:.9g}",
            "--threads": str(grant.threads),
            "--pace": f"{grant.pace_frac:.9g}",
            "--repository": str(self._folder / f"{tier.name}-artifacts"),
        }
        addresses = [f"{self._network.listen_host(tier.name)}:0", f"unix:{self._socket(tier.name)}"]
        return [
            *self._network.prefix(tier.name),
            *self._program,
            *(word for address in addresses for word in ("--listen", address)),
            *(word for option in options.items() for word in option),
        ]

    def _verified(self, started: Started, report: Callable[[str], None]) -> Started:
        entries = []
        for entry in started.tiers:
            checked = entry if entry.address else verify_tier(entry, started.control[entry.tier])
            report(_tier_line(checked))
            entries.append(checked)
        return Started(
            started.limiter, started.memory_limiter, tuple(entries), started.control, started.ports, started.nodes
        )


def _port(tier: str, node: Child) -> int:
    line = node.line(_READY_S)
    match = _READY_LINE.match(line)
    ports = [address.rpartition(":")[2] for address in match[1].split(", ") if "unix:" not in address] if match else []
    if not ports or not ports[0].isdigit():
        raise node.failure(f"the node of tier {tier} must say what it is ready on", got=repr(line))
    return int(ports[0])


def _emulated(tier: Tier, grant: Grant, limiter: Limiter, memory: MemoryLimit) -> TierCalibration:
    slowed = grant.pace_frac < 1.0 or bool(grant.groups)
    return TierCalibration(
        tier=tier.name,
        asked_cpus=tier.cpus,
        threads=grant.threads,
        cpu_means=limiter.name if slowed else "whole",
        memory_bytes=tier.memory_bytes,
        memory_means=memory.name,
        asked_slowdown=max(1.0, 1.0 / tier.cpus),
    )


def _remote(tier: Tier) -> TierCalibration:
    return TierCalibration(
        tier=tier.name,
        address=tier.address,
        asked_cpus=tier.cpus,
        threads=whole_threads(tier.cpus),
        cpu_means="real",
        memory_bytes=tier.memory_bytes,
        memory_means="real",
        asked_slowdown=1.0,
    )


def _tier_line(entry: TierCalibration) -> str:
    if entry.short_slowdown is None or entry.long_slowdown is None or entry.off_frac is None:
        return f"tier {entry.tier}: the node at {entry.address}, used as it is"
    dropped = entry.asked_cpus - entry.threads
    fraction = f"; the {dropped:.2g} CPUs above {entry.threads} are not emulated" if dropped > 0.01 else ""
    cpus = f"{entry.asked_cpus:.3g} CPUs" + ("" if entry.cpu_means == "whole" else f" by {entry.cpu_means}")
    return (
        f"tier {entry.tier}: {cpus}, {format_bytes(entry.memory_bytes)} ({entry.memory_means}); slowed down"
        f" {entry.short_slowdown:.3g} times on short and {entry.long_slowdown:.3g} times on long work"
        f" (asked {entry.asked_slowdown:.3g}; {format_frac(entry.off_frac)} off){fraction}"
    )
