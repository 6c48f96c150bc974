"""Histograms of which a request has half a dozen: Prometheus' in what they tell, cheap where they are told."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import final

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily

__all__ = ["Histogram", "Histograms"]


@final
class Histogram:
    """One series; may be told from several threads.

    Args:
        bounds: Upper bounds of its buckets, each its own; what is above the last is counted too.
    """

    __slots__ = ("_bounds", "_counts", "_mutex", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0
        self._mutex = threading.Lock()

    def observe(self, amount: float) -> None:
        """Count ``amount``."""
        at = bisect_left(self._bounds, amount)
        with self._mutex:
            self._counts[at] += 1
            self._sum += amount

    def read(self) -> tuple[list[int], float]:
        """How many fell between the bounds, the first below it and the last above it, and their sum."""
        with self._mutex:
            return self._counts.copy(), self._sum


@final
class Histograms:
    """One histogram by its labels, as ``prometheus_client.Histogram``, whose ``observe`` looks at its buckets in turn.

    Args:
        name: Its name.
        text: What it is.
        bounds: Upper bounds of its buckets, smallest first.
        labels: Names of its labels.
        registry: What tells of it.
    """

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._bounds, self._labels = name, text, tuple(bounds), tuple(labels)
        self._edges = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        self._mutex = threading.Lock()
        self._series: dict[tuple[str, ...], Histogram] = {}
        registry.register(self)

    def labels(self, *values: str) -> Histogram:
        """The series of some values of the labels, made where there is none."""
        with self._mutex:
            return self._series.setdefault(values, Histogram(self._bounds))

    def remove(self, *values: str) -> None:
        """End a series."""
        with self._mutex:
            self._series.pop(values, None)

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Its name, for the registry."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series, for the registry."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        with self._mutex:
            series = list(self._series.items())
        for values, one in series:
            counts, total = one.read()
            for i in range(1, len(counts)):
                counts[i] += counts[i - 1]
            family.add_metric(values, list(zip(self._edges, counts, strict=True)), total)
        yield family
