"""Two nodes, a slow one and one above it, and a shaped link between them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from subjects import Pixels, Strategy

from tierwise.measure import Reply
from tierwise.runtime import Pipeline, Placed, Share, deploy
from tierwise.testbed import LinkMeans, Network, Spawner
from tierwise.topology import Link, Tier, Topology

_BETWEEN = frozenset({"uplink", "downlink", "network", "local"})


@dataclass(frozen=True)
class Request:
    """One measured request.

    Attributes:
        seconds: From the picture to the answer.
        below_s: Of it, work on the device.
        above_s: Of it, work above.
        link_s: Of it, on the link, both ways.
        up_bytes: The message that crossed upwards.
        down_bytes: The answer.
        logits: The answer.
    """

    seconds: float
    below_s: float
    above_s: float
    link_s: float
    up_bytes: int
    down_bytes: int
    logits: np.ndarray


@dataclass(frozen=True)
class Site:
    """Both nodes, all strategies deployed."""

    pipelines: dict[str, Pipeline]
    network: Network
    pace: float

    def ask(self, strategy: Strategy, picture: Pixels) -> Request:
        """One request."""
        begun_s = time.perf_counter()
        item = strategy.items(picture)
        coding_s = time.perf_counter() - begun_s
        if strategy.picture is not None:
            # The node stretches what it computes to a slow device's time; this is computed here.
            time.sleep(coding_s * (1 / self.pace - 1))
            coding_s = time.perf_counter() - begun_s
        reply = self.pipelines[strategy.name].infer([item])
        seconds = time.perf_counter() - begun_s
        return Request(
            seconds,
            coding_s + _spent(reply, ("client", "device")),
            _spent(reply, ("above",)),
            sum(one.seconds for one in reply.stages if one.stage in ("uplink", "downlink", "network")),
            reply.bytes_up,
            reply.bytes_down,
            next(iter(reply.outputs.values())),
        )

    def carried(self) -> tuple[int, int]:
        """Bytes of packets that the device's interface has sent and received; (0, 0) where there are no packets."""
        if not self.network.carries_packets:
            return 0, 0
        lines = subprocess.run(
            [*self.network.prefix("device"), "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[2:]
        counts = [line.partition(":")[2].split() for line in lines if not line.strip().startswith("lo:")]
        return sum(int(one[8]) for one in counts), sum(int(one[0]) for one in counts)


def _spent(reply: Reply, tiers: Sequence[str]) -> float:
    return sum(one.seconds for one in reply.stages if one.tier in tiers and one.stage not in _BETWEEN)


@contextmanager
def site(means: LinkMeans, link: Link, strategies: Sequence[Strategy], pace: float) -> Iterator[Site]:
    """Nodes that serve the strategies; the device has ``pace`` of a CPU."""
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=10**9) for name in (link.lower, link.upper))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-")))
        spawner = stack.enter_context(Spawner(folder))
        network = stack.enter_context(means.network(Topology(name="t", tiers=tiers, links=(link,)), spawner))
        ports = {}
        started = {}
        for tier in (link.lower, link.upper):
            if network.carries_packets:
                # Whatever the machine uses: Reno is allowed in every namespace and is what the prediction knows.
                _set_kernel(network.prefix(tier), "tcp_congestion_control", "reno")
            listen = ["--listen", f"{network.listen_host(tier)}:0", "--listen", f"unix:{folder}/{tier}.sock"]
            paced = ["--pace", str(pace)] if tier == link.lower and pace < 1 else []
            command = [*network.prefix(tier), sys.executable, "-m", "tierwise", "node", *listen, "--tier", tier, *paced]
            started[tier] = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, text=True)
            stack.enter_context(started[tier])
            stack.callback(started[tier].terminate)
        for tier, process in started.items():
            assert process.stdout is not None
            ports[tier] = int(process.stdout.readline().split(" ready on ")[1].split(",")[0].rpartition(":")[2])
        lower, upper = (f"unix:{folder}/{tier}.sock" for tier in (link.lower, link.upper))
        over = network.address(link.lower, link.upper, ports[link.upper])
        pipelines = {}
        for one in strategies:
            cut = {"local": None, "split": 1, "offload": 0}[one.where]
            name = one.name.replace("+", "-")
            if cut is None:
                placement = [Placed(control=lower, share=Share())]
            else:
                head = Share(segments=(0, cut), forward=over, channels=one.channels)
                count = len(one.artifact.manifest.segments)
                placement = [
                    Placed(control=lower, share=head),
                    Placed(control=upper, share=Share(segments=(cut, count))),
                ]
            deploy(one.artifact, name, placement)
            pipelines[one.name] = stack.enter_context(Pipeline(lower, name, one.artifact.manifest.input, 120.0))
        yield Site(pipelines, network, pace)


def _set_kernel(prefix: list[str], name: str, value: str) -> None:
    subprocess.run([*prefix, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}"], check=True)
