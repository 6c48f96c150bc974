"""A topology brought to life on this machine, verified before anybody uses it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import final

from tierwise._errors import InputError
from tierwise._units import format_frac, format_rate, format_seconds
from tierwise.testbed._calibration import Calibration, LinkCalibration, asked_link
from tierwise.testbed._groups import ControlGroups
from tierwise.testbed._limits import DutyLimiter, Limiter, QuotaLimiter, choose_limiters
from tierwise.testbed._links import LinkMeans, Network, choose_link_means
from tierwise.testbed._netem import NetemMeans
from tierwise.testbed._nodes import NODE_PROGRAM, NodeStarter
from tierwise.testbed._process import Child, Spawner
from tierwise.testbed._run import new_run_name, run_folder, sweep_folders
from tierwise.testbed._tcp import ProxyMeans
from tierwise.testbed._tun import TunMeans
from tierwise.testbed._verify import verify_link, verify_real_link
from tierwise.topology import Link, Scaling, Topology, scale

__all__ = ["Testbed", "all_limiters", "all_link_means", "open_testbed", "sweep"]

Report = Callable[[str], None]


def all_link_means() -> tuple[LinkMeans, ...]:
    """All means of emulating links, the best first."""
    return (NetemMeans(), TunMeans(), ProxyMeans())


def all_limiters() -> tuple[Limiter, ...]:
    """All means of limiting CPUs, in the order in which they are tried."""
    # The duty cycle first: no quota slows down work that is shorter than the quota itself (1 ms at least).
    return (DutyLimiter(), QuotaLimiter(ControlGroups(2)), QuotaLimiter(ControlGroups(1)))


def sweep() -> list[Path]:
    """Remove what runs of processes that no longer live left on this machine; returns what was removed."""
    return [*ControlGroups(2).sweep(), *ControlGroups(1).sweep(), *sweep_folders()]


@final
class Testbed:
    """A verified topology: nodes that run, links that carry. Made by `open_testbed` only.

    Attributes:
        topology: As asked, fitted to the machine.
        scaling: How it was fitted.
        control: For each tier the address to push artifacts to, not shaped by any link; the device's application
            talks to the device's node there.
        calibration: What was asked and what was measured.
    """

    __test__ = False  # pytest: the name begins like a test's

    def __init__(
        self,
        topology: Topology,
        scaling: Scaling,
        control: Mapping[str, str],
        calibration: Calibration,
        forwards: Mapping[tuple[str, str], str],
        nodes: Mapping[str, Child],
        spawner: Spawner,
    ) -> None:
        self.topology, self.scaling, self.control, self.calibration = topology, scaling, control, calibration
        self._forwards, self._nodes, self._spawner = forwards, nodes, spawner

    def forward(self, lower: str, upper: str) -> str:
        """Address at which the node of ``lower`` reaches the one of ``upper`` over the link between them.

        Raises:
            InputError: No link joins the two.
        """
        if (lower, upper) not in self._forwards:
            raise InputError(
                f"a link must join {lower} to {upper}", got=f"links {', '.join(map(' to '.join, self._forwards))}"
            )
        return self._forwards[lower, upper]

    def alive(self) -> bool:
        """Whether every process of nodes and links still runs; what remote nodes do is not known here."""
        return self._spawner.dead() is None

    def check_alive(self) -> None:
        """Nothing, as long as every process of nodes and links runs.

        Raises:
            UnavailableError: One has ended; the message says how, and what it wrote last.
        """
        dead = self._spawner.dead()
        if dead is not None:
            raise dead.failure(f"the process {dead.name} must keep running")

    def node_pid(self, tier: str) -> int:
        """Process id of the node of an emulated tier; KeyError for a remote one."""
        return self._nodes[tier].pid


def _silent(line: str) -> None:
    """Report nothing."""


@contextmanager
def open_testbed(
    topology: Topology,
    *,
    workdir: Path,
    machine_cpus: float,
    link_means: str | None = None,
    limiter: str | None = None,
    verify: bool = True,
    report: Report = _silent,
    node_program: Sequence[str] = NODE_PROGRAM,
) -> Iterator[Testbed]:
    """Start a node for each emulated tier, under its limits and joined by shaped links, and verify both.

    Whatever happens to this process, the others end with it; names on this machine are of this run alone, and what
    dead runs left is removed first.

    Args:
        topology: What is asked for; tiers with an ``address`` are used as they are.
        workdir: Folder for the logs of all processes.
        machine_cpus: CPUs to fit the tiers to (`tierwise.measure.usable_cpus`).
        link_means: ``netem``, ``tun`` or ``proxy``; None takes the first that is available.
        limiter: ``duty``, ``cgroup-v2`` or ``cgroup-v1``; None takes the first that verifies.
        verify: Measure links and tiers; without it, nothing says that they are as asked.
        report: Receives a line about each choice and each measurement.
        node_program: The command that starts a node, without its options.

    Raises:
        InputError: Means or limiter unknown, or an emulated tier above a remote one.
        UnavailableError: The machine cannot do it, or a process failed; the message holds what it wrote.
        EmulationError: A link or tier came out more than a tenth off; the message holds both figures.
    """
    _check_order(topology)
    for left in sweep():
        report(f"removed {left}, left by a run that has died")
    scaled, scaling = scale(topology, machine_cpus)
    run = new_run_name()
    workdir.mkdir(parents=True, exist_ok=True)
    means = choose_link_means(all_link_means(), link_means)
    candidates = choose_limiters(all_limiters(), limiter)
    report(f"links by {means.name}" + ("" if link_means else _passed_over(means)))
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder(run))
        spawner = stack.enter_context(Spawner(workdir))
        network = stack.enter_context(means.network(scaled, spawner))
        links = _links(scaled, network, means.name, spawner, verify, report)
        starter = NodeStarter(scaled, network, spawner, run, folder, tuple(node_program))
        started = starter.start(stack, candidates, verify, report)
        calibration = Calibration(
            link_means=means.name,
            limiter=started.limiter,
            memory_limiter=started.memory_limiter,
            links=links,
            tiers=started.tiers,
            load_before=load,
        )
        forwards = _forwards(scaled, network, started.ports)
        yield Testbed(scaled, scaling, started.control, calibration, forwards, started.nodes, spawner)


def _check_order(topology: Topology) -> None:
    """Refuse an emulated tier above a remote one: nothing out there could reach it."""
    for lower, upper in itertools.pairwise(topology.tiers):
        if lower.address is not None and upper.address is None:
            raise InputError(
                f"tier {upper.name} must have an address, because {lower.name} below it is a remote node and could not"
                " reach an emulated one",
                where=f"topology {topology.name}",
                fix=f"Start a node for {upper.name} and name its host:port, or emulate {lower.name} too",
            )


def _passed_over(chosen: LinkMeans) -> str:
    """Why better means were not chosen."""
    reasons = []
    for one in all_link_means():
        if one.name == chosen.name:
            break
        reasons.append(f"{one.name}: {one.availability().reason}")
    return f" ({'; '.join(reasons)})" if reasons else ""


def _links(
    topology: Topology, network: Network, means: str, spawner: Spawner, verify: bool, report: Report
) -> tuple[LinkCalibration, ...]:
    """Every link's entry, measured where that was asked for."""
    entries = []
    for link in topology.links:
        lower, upper = topology.tier(link.lower), topology.tier(link.upper)
        real = lower.address is not None or upper.address is not None
        if not verify:
            entries.append(asked_link(link, "real" if real else means))
            continue
        if real:
            entry = verify_real_link(link, upper.address if lower.address is None else None)
        else:
            entry = verify_link(network, link, means, spawner)
        report(_link_line(link, entry))
        entries.append(entry)
    return tuple(entries)


def _link_line(link: Link, entry: LinkCalibration) -> str:
    name = f"link {link.lower} to {link.upper}"
    if entry.up_bps is None or entry.down_bps is None or entry.off_frac is None or entry.rtt_s is None:
        rtt = "" if entry.rtt_s is None else f", round trip {format_seconds(entry.rtt_s)}"
        return f"{name}: real, used as it is{rtt}"
    return (
        f"{name}: {format_rate(entry.up_bps)} up, {format_rate(entry.down_bps)} down, {format_seconds(entry.rtt_s)}"
        f" (asked {format_rate(link.up_bps)}, {format_rate(link.down_bps)}, {format_seconds(link.rtt_s)};"
        f" {format_frac(entry.off_frac)} off)"
    )


def _forwards(topology: Topology, network: Network, ports: Mapping[str, int]) -> dict[tuple[str, str], str]:
    """For each link, where the lower node reaches the upper one."""
    found = {}
    for lower, upper in itertools.pairwise(topology.tiers):
        if upper.address is None:
            found[lower.name, upper.name] = network.address(lower.name, upper.name, ports[upper.name])
        elif lower.address is None:
            found[lower.name, upper.name] = network.outside(lower.name, upper.address)
        else:
            found[lower.name, upper.name] = upper.address
    return found
