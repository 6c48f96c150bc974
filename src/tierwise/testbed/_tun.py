"""Links by TUN devices and a relay process: any Linux with ``/dev/net/tun``, as root."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import final

import msgspec

from tierwise.testbed._lane import MTU_BYTES, QUEUE_PACKETS
from tierwise.testbed._links import Availability, LinkMeans, Network, shapes
from tierwise.testbed._namespace import Namespace, namespaces_availability
from tierwise.testbed._process import Child, Spawner
from tierwise.testbed._relay import LOWER_DEVICE, UPPER_DEVICE, RelaySpec
from tierwise.testbed._spaces import ADDRESS_BITS, link_seed, namespaced
from tierwise.topology import Link, Topology

__all__ = ["TunMeans"]


@final
class TunMeans(LinkMeans):
    """Real TCP over packets that a process of ours holds back, one process a link."""

    @property
    def name(self) -> str:
        """See `LinkMeans.name`."""
        return "tun"

    def availability(self) -> Availability:
        """See `LinkMeans.availability`."""
        try:
            os.close(os.open("/dev/net/tun", os.O_RDWR))
        except PermissionError:
            return Availability(ok=False, reason="/dev/net/tun may not be opened", remedy="Run as root (sudo)")
        except OSError as error:
            reason = (
                "there is no /dev/net/tun"
                if isinstance(error, FileNotFoundError)
                else f"/dev/net/tun cannot be opened ({os.strerror(error.errno or 0)})"
            )
            return Availability(
                ok=False, reason=reason, remedy="`modprobe tun`; in a container add --device /dev/net/tun"
            )
        return namespaces_availability()

    def network(self, topology: Topology, spawner: Spawner) -> AbstractContextManager[Network]:
        """See `LinkMeans.network`."""

        def join(link: Link, lower: Namespace, upper: Namespace, lower_host: str, upper_host: str) -> Child:
            up, down = shapes(link)
            spec = RelaySpec(lower_netns=lower.path, upper_netns=upper.path, up=up, down=down, seed=link_seed(link))
            relay = spawner.start_module(
                f"relay-{link.lower}-{link.upper}", "tierwise.testbed._relay", msgspec.json.encode(spec).decode()
            )
            relay.line(20.0)
            for space, device, host in ((lower, LOWER_DEVICE, lower_host), (upper, UPPER_DEVICE, upper_host)):
                space.run(
                    "ip",
                    f"addr add {host}/{ADDRESS_BITS} dev {device}",
                    # Without an IPv6 address the kernel sends nothing of its own over the link.
                    f"link set {device} mtu {MTU_BYTES} txqueuelen {QUEUE_PACKETS} addrgenmode none up",
                )
            return relay

        return namespaced(topology, spawner, join)
