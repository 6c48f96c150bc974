"""Axes of time: where the ticks go and how they read."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["MS_LABEL", "log_domain", "log_ticks", "short"]

MS_LABEL = "datum.value >= 1000 ? format(datum.value / 1000, '~g') + ' s' : format(datum.value, '~g') + ' ms'"
"""Vega expression that prints an axis value given in milliseconds."""

# Up to so many decades, these ticks in each.
_STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.7, (1, 1.5, 2, 3, 4, 5, 7)),
    (2.6, (1, 2, 5)),
    (4.0, (1, 3)),
    (math.inf, (1,)),
)


def log_domain(values: Iterable[float], *, room: float = 0.06) -> tuple[float, float]:
    """Bounds of a logarithmic axis that hold ``values`` with some room on both sides.

    Args:
        values: What must fit; what is not positive cannot and is left out.
        room: Share of the (logarithmic) extent to add on either side; at least a tenth of the value itself.

    Example:
        >>> log_domain([])
        (1.0, 10.0)
    """
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return (1.0, 10.0)
    low, high = math.log10(min(positive)), math.log10(max(positive))
    pad = max(room * (high - low), math.log10(1.1))
    return (10 ** (low - pad), 10 ** (high + pad))


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a logarithmic axis: 1, 2, 5 and so on, or powers of ten alone over many decades.

    Example:
        >>> log_ticks(0.8, 30)
        [1.0, 2.0, 5.0, 10.0, 20.0]
    """
    decades = math.log10(high / low)
    steps = next(steps for most, steps in _STEPS if decades < most)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (float(f"{step * 10.0**exponent:.6g}") for exponent in exponents for step in steps)
    return [tick for tick in ticks if low <= tick <= high]


def short(text: str, limit: int = 40) -> str:
    """``text`` cut to ``limit`` characters for a chart, where it cannot wrap.

    Example:
        >>> short("abcdef", 4)
        'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"
