"""What this machine offers to a study: what works, what that means, and how to get what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tierwise._config import Spec
from tierwise._errors import UnavailableError
from tierwise.testbed._groups import ControlGroups
from tierwise.testbed._links import Availability
from tierwise.testbed._namespace import Namespace, namespaces_availability
from tierwise.testbed._netem import NetemMeans
from tierwise.testbed._tun import TunMeans

__all__ = ["Capability", "capabilities"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_RAPL = Path("/sys/class/powercap")


class Capability(Spec, frozen=True, kw_only=True):
    """One thing a machine can or cannot do.

    Attributes:
        name: What it is.
        ok: Whether this process can use it here.
        meaning: What was found, and what follows from it.
        remedy: How to get it; empty where it is there.
    """

    name: str
    ok: bool
    meaning: str
    remedy: str = ""


def capabilities() -> tuple[Capability, ...]:
    """Everything `tierwise doctor` shows, in the order in which it matters; each is tried, nothing is left behind."""
    tun, netem, spaces = TunMeans().availability(), NetemMeans().availability(), namespaces_availability()
    return (
        _tried(
            "network namespaces",
            spaces,
            "each tier gets a network of its own",
            "tiers share the loopback address, and links can only be TCP proxies",
        ),
        _tried(
            "tc netem",
            netem,
            "links are emulated by the kernel, on real TCP",
            "links are emulated by a TUN relay or a TCP proxy instead",
        ),
        _tried(
            "TUN device",
            tun,
            "links can be emulated on real TCP by a relay process",
            "without netem either, links can only be TCP proxies, without packet loss and congestion control",
        ),
        _tried(
            "tc tbf",
            _tbf(spaces),
            "the kernel can limit rates (not needed: netem and the relay do it too)",
            "nothing is lost, as netem and the relay limit rates themselves",
        ),
        *_groups(),
        _affinity(),
        _instructions(),
        _energy(),
        _browser(),
    )


def _tried(name: str, found: Availability, use: str, otherwise: str) -> Capability:
    if found.ok:
        return Capability(name=name, ok=True, meaning=use)
    return Capability(name=name, ok=False, meaning=f"{found.reason}; {otherwise}", remedy=found.remedy)


def _groups() -> list[Capability]:
    uses = {
        "cpu": (
            "CPU quotas can be set",
            "tiers below one CPU are emulated by a duty cycle (as they are anyway by default)",
        ),
        "memory": ("each tier's memory is limited", "by these groups the tiers' memory cannot be limited"),
    }
    return [
        _tried(f"{groups.name} {controller}", groups.availability(controller), use, otherwise)
        for groups in (ControlGroups(2), ControlGroups(1))
        for controller, (use, otherwise) in uses.items()
    ]


def _tbf(spaces: Availability) -> Availability:
    if not spaces.ok:
        return spaces
    if shutil.which("tc") is None:
        return Availability(ok=False, reason="the command tc is not installed", remedy="Install iproute2")
    try:
        with Namespace() as space:
            space.run("tc", "qdisc add dev lo root tbf rate 1mbit burst 10kb latency 50ms")
    except (OSError, UnavailableError) as error:
        return Availability(ok=False, reason=f"this kernel has no tbf ({error})", remedy="`modprobe sch_tbf`")
    return Availability(ok=True, reason="tc tbf works")


def _affinity() -> Capability:
    # Imported here: relays and proxies start by this package too and must start fast.
    from tierwise.measure import usable_cpus

    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    cpus = usable_cpus()
    host = os.cpu_count() or 1
    return Capability(
        name="CPUs",
        ok=cpus >= 2,
        meaning=f"{cpus:g} CPUs usable of {host} in the machine"
        + ("" if allowed is None else f" ({len(allowed(0))} by affinity)")
        + (
            "; larger tiers are scaled down to that, all by one factor"
            if cpus >= 2
            else "; client, links and nodes share one core, and verification may fail"
        ),
        remedy="" if cpus >= 2 else "Use a machine, quota or affinity (taskset) with two CPUs or more",
    )


def _instructions() -> Capability:
    from tierwise.measure import isa

    kind = isa()
    fast = kind != "x86"
    return Capability(
        name="instruction set",
        ok=fast,
        meaning=f"{kind}: "
        + ("int8 models run on integer dot products" if fast else "no VNNI: int8 may be no faster than fp32"),
        remedy="" if fast else "A CPU with AVX512-VNNI or AVX-VNNI (Intel since 2019, AMD since Zen 4)",
    )


def _energy() -> Capability:
    meters = sorted(_RAPL.glob("*/energy_uj")) if _RAPL.is_dir() else []
    if any(os.access(meter, os.R_OK) for meter in meters):
        return Capability(name="RAPL energy meter", ok=True, meaning="the processor's energy can be read")
    return Capability(
        name="RAPL energy meter",
        ok=False,
        meaning=("the counters may not be read" if meters else "this machine has no powercap counters")
        + ": energy comes from the tiers' power models and is marked as modelled",
        remedy="Run as root, or allow reading /sys/class/powercap/*/energy_uj"
        if meters
        else "A bare-metal Intel or AMD machine with CONFIG_POWERCAP and intel_rapl; virtual machines have none",
    )


def _browser() -> Capability:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    install = "Install chromium (Debian: apt install chromium)" if sys.platform == "linux" else "Install Chromium"
    return Capability(
        name="browser",
        ok=found is not None,
        meaning=f"{found} can show and check a report"
        if found
        else "reports are written all the same; only the test that draws one is skipped",
        remedy="" if found else install,
    )
