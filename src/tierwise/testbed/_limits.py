"""How a node process gets the CPUs and the memory of its tier, and no more.

CPU time below one core is limited in one of two ways. A *quota* of a control group stops the process when it has used
its share of a period; work shorter than the quota is not slowed down at all. A *duty cycle* is kept by the node itself:
after each stage it sleeps as long as a slower core would have gone on computing; right for work of any length, but only
for what the node times. Which one is right on this machine is measured, not assumed.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from tierwise._config import Spec
from tierwise._errors import InputError, UnavailableError
from tierwise.testbed._groups import ControlGroups
from tierwise.testbed._links import Availability
from tierwise.topology import Tier

__all__ = [
    "DutyLimiter",
    "Grant",
    "Limiter",
    "MemoryLimit",
    "QuotaLimiter",
    "choose_limiters",
    "memory_limit",
    "whole_threads",
]


class Grant(Spec, frozen=True, kw_only=True):
    """What a node process is started with.

    Attributes:
        threads: Threads of a model.
        pace_frac: Duty cycle the node keeps itself; 1 for none.
        groups: Control groups it is started in.
    """

    threads: int
    pace_frac: float
    groups: tuple[str, ...] = ()


def whole_threads(cpus: float) -> int:
    """Threads for ``cpus``: whole CPUs, at least one.

    A fraction above a whole CPU is not emulated: stretching it would slow down work of one thread, which such a
    machine does at full speed.
    """
    # A factor such as 2/16 must not make 1.9999999999 of 2.
    return max(1, math.floor(cpus + 1e-6))


class Limiter(ABC):
    """A way to give a process less than one core."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, as the user asks for it and as every result shows it."""

    @abstractmethod
    def availability(self) -> Availability:
        """Whether this process can use it here."""

    @abstractmethod
    def grant(self, run: str, tier: Tier) -> contextlib.AbstractContextManager[Grant]:
        """What the node of ``tier`` is started with; what was made for it is gone when the context ends.

        Raises:
            UnavailableError: The kernel refuses.
        """


@final
class DutyLimiter(Limiter):
    """The node sleeps after each stage of work; needs no rights at all."""

    @property
    def name(self) -> str:
        """See `Limiter.name`."""
        return "duty"

    def availability(self) -> Availability:
        """See `Limiter.availability`."""
        return Availability(ok=True, reason="needs no rights")

    @contextlib.contextmanager
    def grant(self, run: str, tier: Tier) -> Iterator[Grant]:
        """See `Limiter.grant`."""
        yield Grant(threads=whole_threads(tier.cpus), pace_frac=min(1.0, tier.cpus))


@final
class QuotaLimiter(Limiter):
    """A CPU quota of a control group with a short period.

    Args:
        groups: The version of control groups to use.
    """

    def __init__(self, groups: ControlGroups) -> None:
        self._groups = groups

    @property
    def name(self) -> str:
        """See `Limiter.name`."""
        return self._groups.name

    def availability(self) -> Availability:
        """See `Limiter.availability`."""
        return self._groups.availability("cpu")

    @contextlib.contextmanager
    def grant(self, run: str, tier: Tier) -> Iterator[Grant]:
        """See `Limiter.grant`."""
        with self._groups.limited(run, tier.name, "cpu", tier.cpus) as group:
            yield Grant(threads=whole_threads(tier.cpus), pace_frac=1.0, groups=(str(group),))


@final
class MemoryLimit:
    """Limits the memory of node processes by control groups, or not at all.

    Args:
        groups: The version to use; None where neither is available.
    """

    def __init__(self, groups: ControlGroups | None) -> None:
        self._groups = groups

    @property
    def name(self) -> str:
        """``cgroup-v2``, ``cgroup-v1`` or ``none``."""
        return "none" if self._groups is None else self._groups.name

    @contextlib.contextmanager
    def limited(self, run: str, tier: Tier) -> Iterator[tuple[Path, ...]]:
        """The groups to start the node of ``tier`` in; none where memory is not limited."""
        if self._groups is None:
            yield ()
            return
        with self._groups.limited(run, tier.name, "memory", tier.memory_bytes) as group:
            yield (group,)


def memory_limit(versions: Sequence[ControlGroups]) -> MemoryLimit:
    """The first of ``versions`` that can limit memory here."""
    return MemoryLimit(next((one for one in versions if one.availability("memory").ok), None))


def choose_limiters(limiters: Sequence[Limiter], name: str | None) -> list[Limiter]:
    """The limiter called ``name``, or all that are available in the order given.

    Raises:
        InputError: No limiter is called so.
        UnavailableError: It is not available here; says why and how to get it.
    """
    if name is None:
        return [one for one in limiters if one.availability().ok]
    for one in limiters:
        if one.name == name:
            found = one.availability()
            if not found.ok:
                raise UnavailableError(f"limiter {name} must be available", got=found.reason, fix=found.remedy or None)
            return [one]
    raise InputError(f"the limiter must be one of {', '.join(one.name for one in limiters)}", got=repr(name))
