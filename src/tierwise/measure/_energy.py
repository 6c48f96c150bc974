"""What a request cost in joules, and whether that was measured or modelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, final

import msgspec

from tierwise._errors import InputError

__all__ = ["Energy", "Power", "modelled_energy"]


@final
class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Joules and where they come from. No figure goes without ``kind``.

    Attributes:
        joules: Energy.
        kind: ``measured`` by a meter or ``modelled`` from times, bytes and assumed watts.
        source: The meter, or the sources of the model's figures.
        above_idle_j: Of ``joules``, which count the whole machine, the part above what it draws at rest for as long;
            None where that is not known.
    """

    joules: float
    kind: Literal["measured", "modelled"]
    source: str
    above_idle_j: float | None = None


class Power(Protocol):
    """What a tier draws; `tierwise.topology.PowerModel` is one."""

    @property
    def idle_w(self) -> float:
        """Watts while waiting."""
        ...

    @property
    def active_w(self) -> float:
        """Watts while all its CPUs compute."""
        ...

    @property
    def radio_j_per_byte(self) -> float:
        """Joules per byte sent or received over the tier's upward link."""
        ...

    @property
    def source(self) -> str:
        """Where the figures come from."""
        ...


def modelled_energy(
    duration_s: float, busy_s: Mapping[str, float], link_bytes: Mapping[str, float], power: Mapping[str, Power]
) -> Energy:
    """Energy of one request on all tiers that take part in it, from beginning to answer.

    Each tier of ``busy_s`` draws its idle power all the time, the difference to its active power while it computes, and
    its radio's energy for every byte over its upward link. A tier that serves others meanwhile would share its idle
    power; that is not modelled.

    Args:
        duration_s: From the request to the answer.
        busy_s: Compute seconds per tier; a tier that only forwards has 0.
        link_bytes: Bytes in both directions over the upward link of a tier.
        power: Per tier.

    Raises:
        InputError: A tier without power figures, or a negative figure.

    Example:
        >>> class Phone:
        ...     idle_w, active_w, radio_j_per_byte, source = 0.5, 4.5, 1e-6, "assumed"
        >>> modelled_energy(2.0, {"mobile": 1.0}, {"mobile": 1e6}, {"mobile": Phone()}).joules
        6.0
    """
    missing = sorted(set(busy_s) - set(power))
    if missing:
        raise InputError(f"every tier on the path needs a power model, and {', '.join(missing)} has none")
    if duration_s < 0 or min([*busy_s.values(), *link_bytes.values()], default=0) < 0:
        raise InputError("times and bytes must not be negative")
    joules = idle_j = 0.0
    for tier, busy in busy_s.items():
        own = power[tier]
        idle_j += own.idle_w * duration_s
        joules += (own.active_w - own.idle_w) * busy
        joules += own.radio_j_per_byte * link_bytes.get(tier, 0.0)
    sources = "; ".join(f"{tier}: {power[tier].source}" for tier in busy_s)
    return Energy(joules=idle_j + joules, kind="modelled", source=sources, above_idle_j=joules)
