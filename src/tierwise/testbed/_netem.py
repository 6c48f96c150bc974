"""Links by the kernel's own emulator: a pair of virtual Ethernet devices with ``tc netem`` at both ends, as root."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from typing import final

from tierwise._errors import UnavailableError
from tierwise.testbed._lane import MTU_BYTES, QUEUE_PACKETS, Shape
from tierwise.testbed._links import Availability, LinkMeans, Network, shapes
from tierwise.testbed._namespace import Namespace, namespaces_availability
from tierwise.testbed._process import Spawner
from tierwise.testbed._spaces import ADDRESS_BITS, namespaced
from tierwise.topology import Link, Topology

__all__ = ["NetemMeans", "netem_line"]

_LOWER_DEVICE = "tw-up"
_UPPER_DEVICE = "tw-down"
# Fixed hardware addresses and fixed neighbours: nobody asks over a slow or lossy link who is where.
_MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
# A link's rate is that of IP packets; the devices are Ethernet and would count their header too.
_ETHERNET_BYTES = 14


def netem_line(device: str, shape: Shape) -> str:
    """The line of ``tc`` that shapes what leaves ``device``.

    The queue holds what is under way besides what waits, hence the addition. With a rate, netem keeps packets in
    order under jitter.
    """
    under_way = int(shape.rate_bps / 8 * (shape.delay_s + 4 * shape.jitter_s) / MTU_BYTES) + 1
    line = f"qdisc add dev {device} root netem limit {QUEUE_PACKETS + under_way}"
    if shape.delay_s or shape.jitter_s:
        line += f" delay {shape.delay_s * 1e6:.0f}us"
    if shape.jitter_s:
        line += f" {shape.jitter_s * 1e6:.0f}us distribution normal"
    if shape.loss_frac:
        line += f" loss random {100 * shape.loss_frac:.4f}%"
    return f"{line} rate {shape.rate_bps:.0f}bit -{_ETHERNET_BYTES}"


def _pair(lower: Namespace, upper: Namespace, lower_host: str, upper_host: str) -> None:
    """Join two namespaces by a pair of virtual Ethernet devices."""
    lower.run(
        "ip",
        f"link add {_LOWER_DEVICE} address {_MACS[0]} type veth"
        f" peer name {_UPPER_DEVICE} address {_MACS[1]} netns {upper.path}",
    )
    ends = (
        (lower, _LOWER_DEVICE, lower_host, upper_host, _MACS[1]),
        (upper, _UPPER_DEVICE, upper_host, lower_host, _MACS[0]),
    )
    for space, device, host, peer, peer_mac in ends:
        space.run(
            "ip",
            f"addr add {host}/{ADDRESS_BITS} dev {device}",
            # One packet at a time: bundles of up to 64 kB would be delayed, lost and timed as one.
            f"link set {device} mtu {MTU_BYTES} gso_max_segs 1 addrgenmode none up",
            f"neigh replace {peer} lladdr {peer_mac} nud permanent dev {device}",
        )


@final
class NetemMeans(LinkMeans):
    """Real TCP over packets that the kernel holds back."""

    @property
    def name(self) -> str:
        """See `LinkMeans.name`."""
        return "netem"

    def availability(self) -> Availability:
        """See `LinkMeans.availability`."""
        if shutil.which("tc") is None:
            return Availability(ok=False, reason="the command tc is not installed", remedy="Install iproute2")
        found = namespaces_availability()
        if not found.ok:
            return found
        shape = Shape(rate_bps=1e6, delay_s=1e-3)
        try:
            with Namespace() as lower, Namespace() as upper:
                _pair(lower, upper, "10.77.0.1", "10.77.0.2")
                lower.run("tc", netem_line(_LOWER_DEVICE, shape))
        except UnavailableError as error:
            return Availability(
                ok=False,
                reason=f"this kernel has no netem ({str(error.got).partition(' Command')[0].rstrip('.')})",
                remedy="`modprobe sch_netem` (Ubuntu: linux-modules-extra), or a kernel with CONFIG_NET_SCH_NETEM",
            )
        return Availability(ok=True, reason="tc netem works")

    def network(self, topology: Topology, spawner: Spawner) -> AbstractContextManager[Network]:
        """See `LinkMeans.network`."""

        def join(link: Link, lower: Namespace, upper: Namespace, lower_host: str, upper_host: str) -> None:
            up, down = shapes(link)
            _pair(lower, upper, lower_host, upper_host)
            lower.run("tc", netem_line(_LOWER_DEVICE, up))
            upper.run("tc", netem_line(_UPPER_DEVICE, down))

        return namespaced(topology, spawner, join)
