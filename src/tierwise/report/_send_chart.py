"""The chart of what a device sends, stores and computes: one specification for each measure that can lie across.

The page's script draws one of them at a time, tells it by the signal ``hidden`` which methods the reader has put away,
and moves it by the signals of the parameter ``zoom``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from tierwise._units import format_bytes, format_frac
from tierwise.report._axis import log_domain
from tierwise.report._charts import Spec, finish
from tierwise.report._palette import SHAPES, chain_colours
from tierwise.report._part import Drawn
from tierwise.report._sends import Sent

__all__ = ["Method", "SendChart", "bits_text", "send_chart"]

_SCALED = "datum.value >= 1e9 ? format(datum.value / 1e9, '~g') + ' G{0}' : datum.value >= 1e6 ? "
_SCALED += "format(datum.value / 1e6, '~g') + ' M{0}' : datum.value >= 1e3 ? format(datum.value / 1e3, '~g') + ' k{0}'"
_SCALED += " : format(datum.value, '~g') + ' {0}'"

_AREA = (45.0, 330.0)
_PER_COLOUR = 6
_HEIGHT_PX, _NARROW_PX, _NEAR_PX = 400, 300, 18
# Sides of a mark for its number: alignment, steps to the right and downwards in radii, and pixels downwards.
_SIDES = (("center", 0, -1, 0), ("left", 1, 0, 4), ("right", -1, 0, 4), ("center", 0, 1, 8))


@final
@dataclass(frozen=True)
class Method:
    """An entry of the legend, which shows or hides its points.

    Attributes:
        name: The method.
        colour: Its CSS variable.
        shape: Its point shape.
    """

    name: str
    colour: str
    shape: str


@final
@dataclass(frozen=True)
class SendChart:
    """The chart with its controls.

    Attributes:
        views: What can lie across, in words, and the chart of it; the first is drawn at once.
        methods: The legend.
    """

    views: tuple[tuple[str, Drawn], ...]
    methods: tuple[Method, ...]


@final
@dataclass(frozen=True)
class _Axis:
    """A measure that can lie across.

    Attributes:
        field: Of a point.
        title: Beside the axis.
        unit: Behind a label.
    """

    field: str
    title: str
    unit: str


_AXES = (
    ("bytes sent", _Axis("bytes", "bytes of a request on the device's link, logarithmic", "B")),
    ("encoder size", _Axis("bits", "bits of the parameters on the device, logarithmic", "bit")),
    ("encoder arithmetic", _Axis("macs", "multiply-accumulates on the device, logarithmic", "MAC")),
)


def send_chart(ways: Sequence[Sent]) -> SendChart | None:
    """Metric against each measure of the ways that have all; a larger mark is a larger encoder. None where none has.

    The numbers beside the marks are places in ``ways``, from 1.
    """
    if not any(way.drawn for way in ways):
        return None
    names = list(dict.fromkeys(way.method for way in ways if way.drawn))
    methods = tuple(
        Method(name, colour, SHAPES[(i // _PER_COLOUR) % len(SHAPES)])
        for i, (name, colour) in enumerate(chain_colours(names).items())
    )
    rows = _rows(ways)
    views = tuple(
        (label, Drawn("rates" if i == 0 else f"rates-{axis.field}", _spec(rows, axis, methods), _said(ways, label)))
        for i, (label, axis) in enumerate(_AXES)
    )
    return SendChart(views, methods)


def _rows(ways: Sequence[Sent]) -> list[Spec]:
    most = max(way.device_bits for way in ways if way.drawn) or 1
    low, high = _AREA
    return [
        {
            "number": str(number),
            "strategy": way.strategies + ("" if way.channels is None else f", {way.channels} channels"),
            "method": way.method,
            "artifact": way.artifact,
            "bytes": way.link_bytes,
            "bits": way.device_bits,
            "macs": way.device_macs,
            "value": way.test,
            "area": low + (high - low) * way.device_bits / most,
            "front": way.on_front,
            "sent": format_bytes(way.link_bytes) if way.link_bytes else "nothing",
            "metric": format_frac(way.test),
            "encoder": bits_text(way.device_bits),
            "computed": f"{way.device_macs:,}",
        }
        for number, way in enumerate(ways, 1)
        if way.link_bytes is not None and way.test is not None
    ]


def bits_text(bits: int) -> str:
    """As ``75,776 (9.47 kB)``.

    Example:
        >>> bits_text(0), bits_text(64)
        ('none', '64 (8 B)')
    """
    return f"{bits:,} ({format_bytes(bits / 8)})" if bits else "none"


def _spec(rows: Sequence[Spec], axis: _Axis, methods: Sequence[Method]) -> Spec:
    import altair as alt

    low, high = log_domain(row[axis.field] for row in rows)
    # A logarithm has no place for nothing: it stands at the left edge, and says so.
    nothing = any(row[axis.field] == 0 for row in rows)
    least = low if nothing else 0.0
    floor = low / (high / low) ** 0.14 if nothing else low
    if nothing:
        low = floor / (high / floor) ** 0.05
    domain = _domain([row["value"] for row in rows])
    # The small ones are drawn last, over the large.
    points = sorted(({**row, "at": row[axis.field] or floor} for row in rows), key=lambda point: -point["area"])
    _place_numbers(points, (low, high), domain)
    x = alt.X(
        "at:Q",
        title=axis.title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(labelExpr=f"datum.value < {least} ? '' : {_SCALED.format(axis.unit)}", grid=False, tickCount=6),
    )
    metric = alt.Y(
        "value:Q",
        title=None,
        scale=alt.Scale(domain=domain, nice=False),
        axis=alt.Axis(format=".1~%", tickCount=6),
    )
    hidden = alt.param(name="hidden", value=[])
    kept = "indexof(hidden, datum.method) < 0"
    drawn = alt.Chart(alt.NamedData("points")).transform_filter(kept).encode(x=x, y=metric)
    rim, numbers = _numbers(drawn)
    layers = [_lines(drawn, methods), rim, _marks(drawn, methods), numbers]
    if nothing:
        layers.insert(0, _nothing(alt, x))
    chart = alt.layer(*layers).add_params(hidden).properties(width="container", height=_HEIGHT_PX)
    chart = chart.properties(autosize={"type": "fit-x", "contains": "padding"})
    return finish(chart, {"points": points, "edge": [{"at": floor}]})


def _domain(values: Sequence[float]) -> list[float]:
    room = max(0.1 * (max(values) - min(values)), 0.004)
    return [max(0.0, min(values) - room), min(1.0 + room, max(values) + room)]


def _place_numbers(points: Sequence[Spec], across: tuple[float, float], up: Sequence[float]) -> None:
    """Give each point a side for its number: of neighbours, measured on a narrow screen, each has another."""
    placed: list[tuple[float, float, int]] = []
    for point in points:
        x = _NARROW_PX * math.log(point["at"] / across[0]) / math.log(across[1] / across[0])
        y = _HEIGHT_PX * (point["value"] - up[0]) / (up[1] - up[0])
        taken = {side for at, height, side in placed if abs(at - x) < _NEAR_PX and abs(height - y) < _NEAR_PX}
        side = next((one for one in range(len(_SIDES)) if one not in taken), len(_SIDES) - 1)
        placed.append((x, y, side))
        reach = math.sqrt(point["area"] / math.pi) + 5
        align, right, down, rest = _SIDES[side]
        point.update(label_align=align, label_dx=right * reach, label_dy=down * reach + rest)


def _lines(drawn: Any, methods: Sequence[Method]) -> Any:
    """Rates of one artifact, joined."""
    line = drawn.mark_line(strokeWidth=1.5, opacity=0.5, clip=True)
    return line.encode(color=_coloured(methods), detail="artifact:N", order="at:Q")


def _marks(drawn: Any, methods: Sequence[Method]) -> Any:
    import altair as alt

    # Dragging is for a mouse: a finger's drag scrolls the page. A wheel alone scrolls it too.
    zoom = alt.selection_interval(
        name="zoom",
        bind="scales",
        translate="[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!",
        zoom="wheel![event.ctrlKey]",
    )
    shape = alt.Scale(domain=[one.name for one in methods], range=[one.shape for one in methods])
    return (
        drawn.mark_point(filled=True, opacity=0.9, clip=True)
        .encode(
            color=_coloured(methods),
            shape=alt.Shape("method:N", scale=shape, legend=None),
            size=alt.Size("area:Q", scale=None, legend=None),
            stroke=alt.condition("datum.front", alt.value("var(--ink)"), alt.value("var(--panel)")),
            strokeWidth=alt.condition("datum.front", alt.value(2), alt.value(1)),
            tooltip=[
                alt.Tooltip("strategy:N"),
                alt.Tooltip("method:N"),
                alt.Tooltip("sent:N", title="sent"),
                alt.Tooltip("metric:N", title="test split"),
                alt.Tooltip("encoder:N", title="encoder, bits"),
                alt.Tooltip("computed:N", title="its multiply-accumulates"),
            ],
        )
        .add_params(zoom)
    )


def _coloured(methods: Sequence[Method]) -> Any:
    import altair as alt

    scale = alt.Scale(domain=[one.name for one in methods], range=[one.colour for one in methods])
    return alt.Color("method:N", scale=scale, legend=None)


def _numbers(drawn: Any) -> tuple[Any, Any]:
    """A rim in the ground's colour, to lie below all marks, and the numbers of the table's rows beside theirs."""
    import altair as alt

    place: Spec = {key: alt.ExprRef(f"datum.label_{key}") for key in ("align", "dx", "dy")}
    place |= {"fontSize": 11.5, "clip": True}
    rim = drawn.mark_text(**place, stroke="var(--panel)", strokeWidth=4, strokeJoin="round")
    text = drawn.mark_text(**place).encode(
        color=alt.condition("datum.front", alt.value("var(--ink)"), alt.value("var(--ink-soft)"))
    )
    return rim.encode(text="number:N"), text.encode(text="number:N")


def _nothing(alt: Any, x: Any) -> Any:
    return (
        alt.Chart(alt.NamedData("edge"))
        .mark_text(text="none", align="center", baseline="bottom", dy=-4, clip=True, color="var(--ink-soft)")
        .encode(x=x, y=alt.value("height"))
    )


def _said(ways: Sequence[Sent], across: str) -> str:
    front = "; ".join(
        f"{way.strategies}: {format_bytes(way.link_bytes) if way.link_bytes else 'nothing'} sent, {way.metric} "
        f"{format_frac(way.test)}, encoder {bits_text(way.device_bits)}"
        for way in ways
        if way.on_front and way.link_bytes is not None and way.test is not None
    )
    return f"Scatter chart of {ways[0].metric} against {across}. On the Pareto front of all three measures: {front}."
