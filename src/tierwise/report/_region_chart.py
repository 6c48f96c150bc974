"""The chart of winners over bandwidth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tierwise._units import format_rate
from tierwise.report._axis import short
from tierwise.report._charts import Spec, finish, row_axis, with_names
from tierwise.report._sensitivity import Band, Lane

__all__ = ["regions"]

_RATE_LABEL = (
    "datum.value >= 1e9 ? format(datum.value / 1e9, '~g') + ' Gbit/s' : datum.value >= 1e6 ? "
    "format(datum.value / 1e6, '~g') + ' Mbit/s' : datum.value >= 1e3 ? format(datum.value / 1e3, '~g') + ' kbit/s' : "
    "format(datum.value, '~g') + ' bit/s'"
)
_NARROW = 0.05  # share of the axis below which a letter does not fit on a phone


def regions(lanes: Sequence[Lane]) -> Spec:
    """Bandwidth, logarithmic, against the winner; one bar for each link and question, a stroke where it is now."""
    import altair as alt

    low = min(band.low for lane in lanes for band in lane.bands)
    high = max(band.high for lane in lanes for band in lane.bands)
    span = math.log(high / low)
    bars, letters, now, labels = [], [], [], []
    for row, lane in enumerate(lanes):
        for band in lane.bands:
            width = f"{format_rate(band.low)} to {format_rate(band.high)}"
            bars.append(
                {"row": row, "low": band.low, "high": band.high, "winner": band.winner, "colour": band.colour,
                 "rates": width, "link": lane.link, "need": lane.need}
            )  # fmt: skip
            if math.log(band.high / band.low) > _NARROW * span:
                letters.append({"row": row, "at": _beside(band, lane.now), "letter": band.letter})
        now.append({"row": row, "at": lane.now})
        labels.append({"row": row, "label": short(f"{lane.link}: {lane.need}", 64), "figure": ""})
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    axis = alt.Axis(values=_decades(low, high), labelExpr=_RATE_LABEL)
    about = [alt.Tooltip(f"{name}:N") for name in ("link", "need", "winner", "rates")]
    bar = (
        alt.Chart(alt.NamedData("bars"))
        .mark_bar(height=20, yOffset=9, stroke="var(--panel)", strokeWidth=1.5)
        .encode(
            x=alt.X("low:Q", title="bandwidth of the link, upwards, logarithmic", scale=scale, axis=axis),
            x2="high:Q",
            y=row_axis(),
            color=alt.Color("colour:N", scale=None, legend=None),
            tooltip=about,
        )
    )
    letter = (
        alt.Chart(alt.NamedData("letters"))
        .mark_text(yOffset=9.5, fontWeight=700, color="var(--on-chain)")
        .encode(x=alt.X("at:Q", scale=scale), y=row_axis(), text="letter:N")
    )
    layers = alt.layer(bar, letter, *_now(alt, scale))
    sets: dict[str, list[Spec]] = {"bars": bars, "letters": letters, "now": now, "labels": labels}
    return finish(with_names(layers, len(labels)), sets)


def _beside(band: Band, now: float) -> float:
    """The middle of a band, or of its wider part beside the stroke."""
    parts = [(band.low, band.high)]
    if band.low < now < band.high:
        parts = [(band.low, now), (now, band.high)]
    low, high = max(parts, key=lambda part: part[1] / part[0])
    return math.sqrt(low * high)


def _now(alt: Any, scale: Any) -> list[Any]:
    """A stroke with a rim in the ground's colour, so that it can be seen on every bar."""
    mark = alt.Chart(alt.NamedData("now")).encode(x=alt.X("at:Q", scale=scale), y=row_axis())
    return [
        mark.mark_tick(thickness=5, height=28, yOffset=9, color="var(--panel)"),
        mark.mark_tick(thickness=2, height=28, yOffset=9, color="var(--ink)"),
    ]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**exponent for exponent in range(first, last + 1)]
