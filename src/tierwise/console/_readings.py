"""A node's metrics at one moment, and what happened between two of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self, final

from prometheus_client.parser import text_string_to_metric_families

from tierwise._errors import InputError

__all__ = ["Readings", "Span", "Spread"]

Labels = frozenset[tuple[str, str]]

_MOST_CHARS: Final = 8_000_000


@final
@dataclass(frozen=True, eq=False)
class Readings:
    """The samples of one exposition.

    Attributes:
        at_s: When, on this host's monotonic clock.
        series: Values by name and labels.
    """

    at_s: float
    series: dict[str, dict[Labels, float]]

    @classmethod
    def parse(cls, text: str, at_s: float) -> Self:
        """From Prometheus' text format.

        Raises:
            InputError: The text is none.
        """
        if len(text) > _MOST_CHARS:
            raise InputError(f"the metrics must have at most {_MOST_CHARS:,} characters", got=f"{len(text):,}")
        series: dict[str, dict[Labels, float]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name.endswith("_bucket"):
                        float(sample.labels["le"])
                    # No figure is better than one that is none: a page cannot draw it.
                    if math.isfinite(sample.value) and not sample.name.endswith("_created"):
                        series.setdefault(sample.name, {})[frozenset(sample.labels.items())] = float(sample.value)
        except (ValueError, KeyError, IndexError, TypeError) as error:  # what the parser raises for text that is none
            raise InputError(f"the metrics must be Prometheus' text format ({error})") from error
        return cls(at_s, series)

    def each(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """All series of a name as (labels, value)."""
        for labels, value in self.series.get(name, {}).items():
            yield dict(labels), value

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the series that have these labels; None where there is none."""
        found = [value for have, value in self.each(name) if labels.items() <= have.items()]
        return sum(found) if found else None


@final
@dataclass(frozen=True)
class Spread:
    """What a histogram took in over a while.

    Attributes:
        count: How many.
        mean_s: Their mean; None where there were none.
        p50_s: Their median, as far as buckets tell.
        p95_s: Their 95th percentile, likewise.
    """

    count: float
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None


@final
@dataclass(frozen=True, eq=False)
class Span:
    """What happened between two readings of one process; the earlier may be None: nothing is known then."""

    earlier: Readings | None
    later: Readings

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return 0.0 if self.earlier is None else self.later.at_s - self.earlier.at_s

    def grown(self, name: str, **labels: str) -> float:
        """By how much a counter (the sum of those with these labels) grew."""
        if self.earlier is None:
            return 0.0
        before = self.earlier.series.get(name, {})
        wanted = labels.items()
        return sum(
            # A series that fell was ended and begun anew: a model that was unloaded and loaded.
            value - was if value >= (was := before.get(key, 0.0)) else value
            for key, value in self.later.series.get(name, {}).items()
            if wanted <= set(key)
        )

    def rate(self, name: str, **labels: str) -> float:
        """Growth a second."""
        return self.grown(name, **labels) / self.seconds if self.seconds > 0 else 0.0

    def spread(self, name: str, **labels: str) -> Spread:
        """What the histogram ``name`` took in."""
        count = self.grown(f"{name}_count", **labels)
        if count <= 0:
            return Spread(0.0, None, None, None)
        bounds = sorted(
            {float(have["le"]) for have, _ in self.later.each(f"{name}_bucket") if labels.items() <= have.items()}
        )
        texts = {float(have["le"]): have["le"] for have, _ in self.later.each(f"{name}_bucket")}
        below = [(bound, self.grown(f"{name}_bucket", **labels, le=texts[bound])) for bound in bounds]
        mean_s = self.grown(f"{name}_sum", **labels) / count
        return Spread(count, mean_s, _quantile(below, 0.5), _quantile(below, 0.95))


def _quantile(below: list[tuple[float, float]], share: float) -> float | None:
    """The quantile of a cumulative histogram, as if values lay evenly within a bucket (Prometheus' own rule).

    Example:
        >>> _quantile([(1.0, 10.0), (2.0, 20.0), (float("inf"), 20.0)], 0.75)
        1.5
    """
    if not below or below[-1][1] <= 0:
        return None
    rank = share * below[-1][1]
    low, under = 0.0, 0.0
    for bound, count in below:
        if count >= rank:
            if math.isinf(bound):
                return low or None
            return low + (bound - low) * (rank - under) / (count - under) if count > under else bound
        low, under = bound, count
    return low
