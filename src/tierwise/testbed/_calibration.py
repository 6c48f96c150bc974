"""What was asked of an emulated testbed and what it turned out to do; more than a tenth off is an error."""

from __future__ import annotations

import msgspec

from tierwise._config import Spec
from tierwise._errors import EmulationError
from tierwise._units import format_rate, format_seconds
from tierwise.testbed._meter import PING_BYTES, LinkFigures
from tierwise.topology import Link

__all__ = [
    "TOLERANCE_FRAC",
    "Calibration",
    "LinkCalibration",
    "TierCalibration",
    "asked_link",
    "check_link",
    "check_tier",
    "rtt_slack_s",
]

TOLERANCE_FRAC = 0.10
# What the sockets at both ends may add to a round trip besides the link.
_SLACK_S = 0.3e-3
# A machine that takes longer than that to wake processes is too busy to emulate anything.
_MOST_PASSED_ON_S = 1e-3


class LinkCalibration(Spec, frozen=True, kw_only=True):
    """One link: asked and measured.

    Attributes:
        lower: Tier nearer to the device.
        upper: Tier farther from it.
        means: ``netem``, ``tun`` or ``proxy``; ``real`` for a link to a remote tier, which is used as it is.
        asked_up_bps: Rate of IP packets from lower to upper, as specified.
        asked_down_bps: The same from upper to lower.
        asked_rtt_s: Round-trip time as specified.
        jitter_s: Standard deviation of the one-way delay as specified (not verified).
        loss_frac: Loss as specified.
        up_bps: Measured rate; None when it was not measured.
        down_bps: Measured rate back.
        rtt_s: Measured median round trip of one byte over TCP.
        passed_on_s: The same at the same time without a link, through a process that only passes bytes on.
        measured_loss_frac: Share of datagrams lost; None where there is no loss to measure or only streams cross.
        off_frac: The largest relative deviation of rate and round trip (0 when within the slack of `rtt_slack_s`).
        tries: Measurements taken; the last one counts.
    """

    lower: str
    upper: str
    means: str
    asked_up_bps: float
    asked_down_bps: float
    asked_rtt_s: float
    jitter_s: float
    loss_frac: float
    up_bps: float | None = None
    down_bps: float | None = None
    rtt_s: float | None = None
    passed_on_s: float | None = None
    measured_loss_frac: float | None = None
    off_frac: float | None = None
    tries: int = 0


class TierCalibration(Spec, frozen=True, kw_only=True):
    """One tier: asked and measured.

    Attributes:
        tier: Its name.
        address: ``host:port`` of a remote tier, which is used as it is; None for an emulated one.
        asked_cpus: CPUs after scaling.
        threads: Threads a model gets there: whole CPUs, at least one.
        cpu_means: ``duty``, ``cgroup-v2`` or ``cgroup-v1``; ``whole`` where there is nothing to slow down.
        memory_bytes: Limit of the node process after scaling.
        memory_means: ``cgroup-v2``, ``cgroup-v1`` or ``none`` (not limited).
        asked_slowdown: Wall time over CPU time of work of one thread.
        short_slowdown: Measured on work of 1 to 2 ms; None when it was not measured.
        long_slowdown: Measured on work of about 30 ms.
        off_frac: The larger relative deviation of the two.
        tries: Measurements taken; the last one counts.
    """

    tier: str
    address: str | None = None
    asked_cpus: float
    threads: int
    cpu_means: str
    memory_bytes: int
    memory_means: str
    asked_slowdown: float
    short_slowdown: float | None = None
    long_slowdown: float | None = None
    off_frac: float | None = None
    tries: int = 0


class Calibration(Spec, frozen=True, kw_only=True):
    """How a testbed emulates, and how well: belongs to every result obtained on it.

    Attributes:
        link_means: Means of the emulated links.
        limiter: Means of limiting CPUs.
        memory_limiter: Means of limiting memory.
        links: One entry a link.
        tiers: One entry a tier.
        load_before: Runnable processes per second of the last minute before measuring; a busy machine emulates badly.
    """

    link_means: str
    limiter: str
    memory_limiter: str
    links: tuple[LinkCalibration, ...]
    tiers: tuple[TierCalibration, ...]
    load_before: float

    @property
    def worst_off_frac(self) -> float | None:
        """The largest deviation of all; None when nothing was measured."""
        offs = [link.off_frac for link in self.links] + [tier.off_frac for tier in self.tiers]
        return max((off for off in offs if off is not None), default=None)


def rtt_slack_s(link: Link, figures: LinkFigures | None = None) -> float:
    """Deviation of the round trip that is no fault of the link.

    Both sockets and the packet's own time on the wire; where ``figures`` are late, also what this machine takes to wake
    the processes a byte passes through (their ``passed_on_s``; nothing wakes too early). A link's own process does up
    to twice the work of passing on, which a delay hides and a link without one cannot. No more than a millisecond of
    it counts.
    """
    slack_s = _SLACK_S + PING_BYTES * 8 * (1 / link.up_bps + 1 / link.down_bps) + link.jitter_s
    if figures is None or figures.rtt_s <= link.rtt_s:
        return slack_s
    machine_s = figures.passed_on_s + max(0.0, figures.passed_on_s - link.rtt_s)
    return slack_s + min(machine_s, _MOST_PASSED_ON_S)


def _off_frac(measured: float, asked: float) -> float:
    return abs(measured / asked - 1.0)


def _rtt_off_frac(link: Link, figures: LinkFigures) -> float:
    slack_s = rtt_slack_s(link, figures)
    gap_s = abs(figures.rtt_s - link.rtt_s)
    return 0.0 if gap_s <= slack_s else gap_s / max(link.rtt_s, slack_s)


def asked_link(link: Link, means: str) -> LinkCalibration:
    """A link's entry before anything was measured."""
    return LinkCalibration(
        lower=link.lower,
        upper=link.upper,
        means=means,
        asked_up_bps=link.up_bps,
        asked_down_bps=link.down_bps,
        asked_rtt_s=link.rtt_s,
        jitter_s=link.jitter_s,
        loss_frac=link.loss_frac,
    )


def check_link(link: Link, means: str, figures: LinkFigures, tries: int) -> LinkCalibration:
    """Compare a measurement with the spec.

    Raises:
        EmulationError: A rate or the round trip is more than `TOLERANCE_FRAC` off; the message holds both figures.
    """
    rtt = format_seconds(figures.rtt_s)
    offs = {
        _both(format_rate(figures.up_bps), "up", format_rate(link.up_bps)): _off_frac(figures.up_bps, link.up_bps),
        _both(format_rate(figures.down_bps), "down", format_rate(link.down_bps)): _off_frac(
            figures.down_bps, link.down_bps
        ),
        _both(rtt, "round trip", format_seconds(link.rtt_s)): _rtt_off_frac(link, figures),
    }
    worst = max(offs, key=lambda text: offs[text])
    if offs[worst] > TOLERANCE_FRAC:
        raise EmulationError(
            f"the emulated link must come out within {TOLERANCE_FRAC:.0%} of its spec",
            got=f"{worst} ({means}, {tries} tries; {format_seconds(figures.passed_on_s)} without a link)",
            where=f"link {link.lower} to {link.upper}",
            fix="Stop other work on this machine, choose other link means, or ask for what this machine can carry",
        )
    return msgspec.structs.replace(
        asked_link(link, means),
        up_bps=figures.up_bps,
        down_bps=figures.down_bps,
        rtt_s=figures.rtt_s,
        passed_on_s=figures.passed_on_s,
        measured_loss_frac=figures.loss_frac,
        off_frac=offs[worst],
        tries=tries,
    )


def check_tier(asked: TierCalibration, short: float, long: float, tries: int) -> TierCalibration:
    """Compare the slowdowns measured on short and on long work with the one asked for.

    Raises:
        EmulationError: One is more than `TOLERANCE_FRAC` off; the message holds both figures.
    """
    offs = {
        _both(f"{short:.3g} times", "slower on short work", f"{asked.asked_slowdown:.3g}"): _off_frac(
            short, asked.asked_slowdown
        ),
        _both(f"{long:.3g} times", "slower on long work", f"{asked.asked_slowdown:.3g}"): _off_frac(
            long, asked.asked_slowdown
        ),
    }
    worst = max(offs, key=lambda text: offs[text])
    if offs[worst] > TOLERANCE_FRAC:
        raise EmulationError(
            f"the emulated tier must come out within {TOLERANCE_FRAC:.0%} of its spec",
            got=f"{worst} ({asked.cpu_means}, {tries} tries)",
            where=f"tier {asked.tier} with {asked.asked_cpus:.3g} CPUs",
            fix="Stop other work on this machine, or choose another limiter",
        )
    return msgspec.structs.replace(asked, short_slowdown=short, long_slowdown=long, off_frac=offs[worst], tries=tries)


def _both(measured: str, what: str, asked: str) -> str:
    return f"{measured} {what} where {asked} was asked for"
