"""Which path the next request takes: the policy, and the patience that keeps it from flapping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

__all__ = ["Candidate", "Choice", "Chooser", "Policy"]

Policy = Literal["accurate", "fast"]


@final
@dataclass(frozen=True)
class Candidate:
    """A path as the choice sees it.

    Attributes:
        name: Its name.
        usable: Whether requests may take it (its breaker is closed).
        expected_s: Its usual latency; None where it was never measured.
        careful_s: The latency it seldom exceeds; None as above.
        limit_s: How long it may take.
    """

    name: str
    usable: bool
    expected_s: float | None
    careful_s: float | None
    limit_s: float

    def is_quicker_than(self, other: Candidate) -> bool:
        """Whether it usually answers before ``other``, as far as both are known."""
        return self.expected_s is not None and other.expected_s is not None and self.expected_s < other.expected_s


@final
@dataclass(frozen=True)
class Choice:
    """Where requests go, and what would take over.

    Attributes:
        name: The path; None before the first choice.
        rival: A path that would be better, but not for long enough yet.
        since_ns: Since when it has been.
        switches: How often the path was changed.
    """

    name: str | None = None
    rival: str | None = None
    since_ns: int = 0
    switches: int = 0


@final
class Chooser:
    """Policy with hysteresis, after the Schmitt trigger: another path must be better by a margin, for a while.

    * ``accurate``: the most accurate path whose careful latency keeps its limit; one that is not in use must keep it by
      the margin. Where none does, the one that usually answers first.
    * ``fast``: the path that usually answers first; one that is not in use must be faster by the margin.

    A path that may not be used, or (``accurate``) no longer keeps its limit, is left at once. So is any where a link
    has just been found to be another one: the while is there for noise, and a step is none.

    Args:
        policy: ``accurate`` or ``fast``.
        margin_frac: The margin, below 1.
        dwell_s: How long a rival must have been better.
    """

    def __init__(self, policy: Policy, margin_frac: float, dwell_s: float) -> None:
        self._policy, self._margin_frac, self._dwell_s = policy, margin_frac, dwell_s

    def step(self, choice: Choice, candidates: Sequence[Candidate], now_ns: int, *, stepped: bool = False) -> Choice:
        """The choice after ``choice``.

        Args:
            choice: The last one.
            candidates: All paths, the most accurate first.
            now_ns: The time.
            stepped: Whether a link has changed by a step since the last choice.

        Returns:
            A choice whose name is None only where no path may be used.
        """
        usable = [one for one in candidates if one.usable]
        if not usable:
            return replace(choice, name=None, rival=None)
        current = next((one for one in usable if one.name == choice.name), None)
        best = self._best(usable, current)
        if current is not None and best.name == current.name:
            return replace(choice, rival=None)
        urgent = current is None or stepped or (self._policy == "accurate" and not self._keeps(current, 0.0))
        if not urgent:
            if choice.rival != best.name:
                choice = replace(choice, rival=best.name, since_ns=now_ns)
            if now_ns - choice.since_ns < 1e9 * self._dwell_s:
                return choice
        return Choice(best.name, switches=choice.switches + (choice.name is not None))

    def _best(self, usable: Sequence[Candidate], current: Candidate | None) -> Candidate:
        if self._policy == "accurate":
            for one in usable:
                if self._keeps(one, 0.0 if one is current else self._margin_frac):
                    return one
        fastest = min(usable, key=lambda one: math.inf if one.expected_s is None else one.expected_s)
        if current is None or current.expected_s is None or fastest.expected_s is None:
            return fastest
        better = fastest.expected_s < current.expected_s * (1.0 - self._margin_frac)
        return fastest if better else current

    def _keeps(self, one: Candidate, margin_frac: float) -> bool:
        """Whether it keeps its limit; a path nobody has measured gets the chance."""
        return one.careful_s is None or one.careful_s <= one.limit_s * (1.0 - margin_frac)
