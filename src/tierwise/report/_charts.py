"""Charts as Vega-Lite specifications. Every value is computed before; a chart only places it.

In the charts with one row per strategy the name stands above its bar, so that a long name costs no width on a phone.
Strategies are addressed by row number, and their names are never anything but text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tierwise._units import format_frac, format_seconds
from tierwise.measure import Estimate
from tierwise.report._axis import MS_LABEL, log_domain, log_ticks, short
from tierwise.report._palette import STAGE_ORDER, stage_colour
from tierwise.report._rows import DecisionRow, estimate_text
from tierwise.report._stages import StageMeans

__all__ = [
    "CONFIG",
    "ROW_PX",
    "PredictionPoint",
    "Spec",
    "finish",
    "prediction",
    "row_axis",
    "spread",
    "stages",
    "tradeoff",
    "with_names",
]

Spec = dict[str, Any]
"""A Vega-Lite specification, or a part of one."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
ROW_PX = 46
"""Height of one strategy's row."""
_FIT = {"type": "fit-x", "contains": "padding"}

CONFIG: Spec = {
    "background": None,
    "font": _FONT,
    "aria": False,
    "padding": {"left": 2, "right": 8, "top": 6, "bottom": 2},
    "view": {"stroke": None},
    "text": {"color": "var(--ink)", "fontSize": 12.5},
    "axis": {
        "domain": False,
        "gridColor": "var(--grid)",
        "labelColor": "var(--ink-soft)",
        "labelFontSize": 12,
        "labelOverlap": "greedy",
        "labelSeparation": 6,
        "tickColor": "var(--grid)",
        "titleColor": "var(--ink-soft)",
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
}
"""Look of all charts. Colours are CSS variables: light, dark and print need no drawing anew."""


@final
@dataclass(frozen=True)
class PredictionPoint:
    """A strategy whose latency was predicted before it was measured.

    Attributes:
        strategy: Its name.
        predicted_s: Modelled latency of one request.
        measured_s: Measured median.
        low_s: Lower end of the median's interval.
        high_s: Upper end of the median's interval.
    """

    strategy: str
    predicted_s: float
    measured_s: float
    low_s: float
    high_s: float

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured_s / self.predicted_s if self.predicted_s > 0 else float("inf")


def tradeoff(rows: Sequence[DecisionRow], colours: Mapping[str, str], shapes: Mapping[str, str]) -> Spec:
    """Accuracy against median latency, intervals as whiskers, the Pareto front as steps with its members named."""
    import altair as alt

    shown = [row for row in rows if row.p50 is not None and row.accuracy is not None]
    low, high = log_domain(1e3 * end for row in shown if row.p50 for end in _ends(row.p50))
    points = [_tradeoff_point(row, low, high) for row in shown]
    front = sorted((point for point in points if point["front"]), key=lambda point: (point["p50"], -point["accuracy"]))
    if front:
        front[-1] = {**front[-1], "label_dy": -12}
    metric = next((row.metric for row in shown if row.metric), "accuracy")
    x = alt.X("p50:Q", title="median latency, logarithmic", scale=_log(low, high), axis=_log_axis(low, high))
    y = alt.Y(
        "accuracy:Q",
        title=f"{metric} on the {shown[0].accuracy_split} split" if shown and shown[0].accuracy_split else metric,
        scale=alt.Scale(domain=_accuracy_domain(points), nice=False),
        axis=alt.Axis(format=".1%", tickCount=5),
    )
    colour = alt.Color("chain:N", scale=_named(colours), legend=None)
    whisker = alt.Chart(alt.NamedData("points")).mark_rule(opacity=0.45, strokeWidth=1.5).encode(color=colour)
    steps = alt.Chart(alt.NamedData("front")).mark_line(
        interpolate="step-after", color="var(--front)", strokeWidth=1.5, strokeDash=[5, 4]
    )
    marks = (
        alt.Chart(alt.NamedData("points"))
        .mark_point(filled=True, size=95, opacity=1, stroke="var(--panel)", strokeWidth=1)
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape("placement:N", scale=_named(shapes), legend=None),
            tooltip=[
                alt.Tooltip("strategy:N"),
                alt.Tooltip("latency:N", title="p50"),
                alt.Tooltip("correct:N", title=metric),
            ],
        )
    )
    layers = [
        steps.encode(x=x, y=y),
        whisker.encode(x=alt.X("low:Q", scale=_log(low, high)), x2="high:Q", y=y),
        whisker.transform_filter("isValid(datum.worst)").encode(x=x, y=alt.Y("worst:Q"), y2="best:Q"),
        marks,
        *_point_labels(x, y),
    ]
    chart = alt.layer(*layers).properties(width="container", height=380, autosize=_FIT)
    return finish(chart, {"points": points, "front": front})


def _tradeoff_point(row: DecisionRow, low: float, high: float) -> Spec:
    assert row.p50 is not None  # the caller has sorted these out
    assert row.accuracy is not None
    p50, (p50_low, p50_high) = 1e3 * row.p50.value_s, _ends(row.p50)
    left = p50 * p50 < low * high
    return {
        "strategy": row.strategy,
        "label": short(row.strategy),
        "chain": row.chain,
        "placement": row.placement,
        "p50": p50,
        "low": 1e3 * p50_low,
        "high": 1e3 * p50_high,
        "latency": estimate_text(row.p50),
        "accuracy": row.accuracy.value,
        "worst": row.accuracy.low,
        "best": row.accuracy.high,
        "correct": row.accuracy.text,
        "front": row.on_front,
        # Named towards the middle, so that no name leaves the chart; below the point, for the front's next is above.
        "label_align": "left" if left else "right",
        "label_dx": 9 if left else -9,
        "label_dy": 13,
    }


def _ends(estimate: Estimate) -> tuple[float, float]:
    """The interval to draw; an open end is not drawn, it ends at the point itself."""
    low, high = estimate.low_s, estimate.high_s
    return (estimate.value_s if low is None else low, estimate.value_s if high is None else high)


def _accuracy_domain(points: Sequence[Spec]) -> list[float]:
    ends = [point[key] for point in points for key in ("accuracy", "worst", "best") if point[key] is not None]
    if not ends:
        return [0.0, 1.0]
    room = max(0.12 * (max(ends) - min(ends)), 0.004)
    return [max(0.0, min(ends) - room), min(1.0 + room, max(ends) + room)]


def _point_labels(x: Any, y: Any) -> list[Any]:
    """Names of the front's members, with a rim in the ground's colour so that lines behind do not disturb."""
    import altair as alt

    named = alt.Chart(alt.NamedData("front"))
    place = {key: alt.ExprRef(f"datum.label_{key}") for key in ("align", "dx", "dy")} | {"fontWeight": 600}
    rim = named.mark_text(**place, stroke="var(--panel)", strokeWidth=4, strokeJoin="round")
    return [mark.encode(x=x, y=y, text="label:N") for mark in (rim, named.mark_text(**place))]


def stages(means: Sequence[StageMeans], *, share: bool) -> Spec:
    """Mean time in each stage, one bar per strategy: in milliseconds, or as shares of the request."""
    import altair as alt

    bars = [bar for row, entry in enumerate(means) for bar in _stack(row, entry, share)]
    labels = [
        {"row": row, "label": short(entry.strategy), "figure": format_seconds(entry.latency_s)}
        for row, entry in enumerate(means)
    ]
    top = max((entry.latency_s for entry in means), default=0.0)
    scale = alt.Scale(domain=[0, 1] if share else [0, 1.02e3 * top or 1], nice=False)
    axis = alt.Axis(format=".0%", tickCount=5) if share else alt.Axis(labelExpr=MS_LABEL, tickCount=6)
    stacked = (
        alt.Chart(alt.NamedData("bars"))
        .mark_bar(height=15, yOffset=9)
        .encode(
            x=alt.X("start:Q", title="share of the request" if share else "mean latency", scale=scale, axis=axis),
            x2="end:Q",
            y=row_axis(),
            color=alt.Color(
                "stage:N",
                scale=alt.Scale(domain=list(STAGE_ORDER), range=[stage_colour(s) for s in STAGE_ORDER]),
                legend=None,
            ),
            tooltip=[alt.Tooltip(f"{name}:N") for name in ("strategy", "stage", "mean", "share", "where")],
        )
    )
    return finish(with_names(stacked, len(labels)), {"bars": bars, "labels": labels})


def _stack(row: int, entry: StageMeans, share: bool) -> list[Spec]:
    total = entry.total_s
    factor = (1 / total if total > 0 else 0.0) if share else 1e3
    bars, start = [], 0.0
    for stage, seconds in entry.seconds.items():
        bars.append(
            {
                "row": row,
                "strategy": entry.strategy,
                "stage": stage,
                "start": start * factor,
                "end": (start + seconds) * factor,
                "mean": format_seconds(seconds),
                "share": format_frac(seconds / total) if total > 0 else "",
                "where": entry.where.get(stage, ""),
            }
        )
        start += seconds
    return bars


def spread(rows: Sequence[DecisionRow], latencies_s: Mapping[str, Sequence[float]]) -> Spec:
    """Where the single requests lie: a strip of order statistics, a box from p25 to p75, the median as a stroke.

    Args:
        rows: Strategies in the order they are drawn; those without latencies are left out.
        latencies_s: Sorted latencies by strategy; long ones are thinned evenly, with both ends kept.
    """
    import altair as alt

    shown = [row for row in rows if latencies_s.get(row.strategy)]
    dots, boxes, labels, starts = [], [], [], []
    for index, row in enumerate(shown):
        ordered = [1e3 * value for value in latencies_s[row.strategy]]
        dots += [
            {"row": index, "at": round(value, 6), "lift": lift} for value, lift in zip(*_strip(ordered), strict=True)
        ]
        boxes.append(_box(index, row.strategy, ordered))
        labels.append({"row": index, "label": short(row.strategy), "figure": f"n = {len(ordered)}"})
        if len(row.session_medians_s) > 1:
            starts += [{"row": index, "at": 1e3 * median} for median in row.session_medians_s]
    low, high = log_domain([dot["at"] for dot in dots], room=0.03)
    x = alt.X("at:Q", title="latency of a request, logarithmic", scale=_log(low, high), axis=_log_axis(low, high))
    # Counted from the upper edge of the row: around the middle of the box.
    lift = alt.Scale(domain=[-1, 1], range=[ROW_PX / 2, ROW_PX / 2 + 18])
    strip = (
        alt.Chart(alt.NamedData("dots"))
        .mark_circle(size=9, opacity=0.5, color="var(--dot)")
        .encode(x=x, y=row_axis(), yOffset=alt.YOffset("lift:Q", scale=lift))
    )
    about = [alt.Tooltip("strategy:N"), *(alt.Tooltip(f"{name}:N") for name in ("min", "p25", "p50", "p75", "max"))]
    box = alt.Chart(alt.NamedData("boxes")).encode(y=row_axis(), tooltip=about)
    bar = box.mark_bar(height=16, yOffset=9, color="var(--box)", opacity=0.55, stroke="var(--box-edge)")
    sessions = alt.Chart(alt.NamedData("starts")).mark_tick(thickness=2.5, height=6, yOffset=21, color="var(--chain-1)")
    median = box.mark_tick(thickness=2.5, height=20, yOffset=9, color="var(--ink)")
    layers = alt.layer(
        bar.encode(x=alt.X("q1:Q", scale=_log(low, high)), x2="q3:Q"),
        strip,
        median.encode(x=alt.X("q2:Q", scale=_log(low, high))),
        *([sessions.encode(x=x, y=row_axis())] if starts else []),
    )
    sets = {"dots": dots, "boxes": boxes, "starts": starts, "labels": labels}
    return finish(with_names(layers, len(labels)), sets)


def _strip(ordered: Sequence[float], limit: int = 140) -> tuple[list[float], list[float]]:
    """At most ``limit`` of the ordered values, evenly spread with both ends, and a height for each."""
    count = min(len(ordered), limit)
    picked = [ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count)]
    # Multiples of the golden ratio, mod 1, spread evenly and never look like a pattern; the page stays reproducible.
    return picked, [round(2 * ((0.618034 * i) % 1.0) - 1, 3) for i in range(count)]


def _box(row: int, strategy: str, ordered: Sequence[float]) -> Spec:
    def at(frac: float) -> float:
        return ordered[min(int(frac * len(ordered)), len(ordered) - 1)]

    text = {
        name: format_seconds(value / 1e3)
        for name, value in (
            ("min", ordered[0]), ("p25", at(0.25)), ("p50", at(0.5)), ("p75", at(0.75)), ("max", ordered[-1]),
        )
    }  # fmt: skip
    return {"row": row, "strategy": strategy, "q1": at(0.25), "q2": at(0.5), "q3": at(0.75), **text}


def prediction(points: Sequence[PredictionPoint]) -> Spec:
    """Predicted (hollow) against measured (filled) latency, one row per strategy."""
    import altair as alt

    values: list[Spec] = [
        {
            "row": row,
            "strategy": point.strategy,
            "predicted": 1e3 * point.predicted_s,
            "measured": 1e3 * point.measured_s,
            "low": 1e3 * point.low_s,
            "high": 1e3 * point.high_s,
            "predicted_text": format_seconds(point.predicted_s),
            "measured_text": format_seconds(point.measured_s),
        }
        for row, point in enumerate(points)
    ]
    labels = [
        {"row": row, "label": short(point.strategy), "figure": f"{point.ratio:.3g} × predicted"}  # noqa: RUF001
        for row, point in enumerate(points)
    ]
    low, high = log_domain(value[key] for value in values for key in ("predicted", "measured", "low", "high"))
    about = [
        alt.Tooltip("strategy:N"),
        alt.Tooltip("predicted_text:N", title="predicted (modelled)"),
        alt.Tooltip("measured_text:N", title="measured p50"),
    ]
    x = alt.X("measured:Q", title="latency, logarithmic", scale=_log(low, high), axis=_log_axis(low, high))
    each = alt.Chart(alt.NamedData("points")).encode(y=row_axis(), tooltip=about)
    layers = alt.layer(
        each.mark_rule(yOffset=9, color="var(--whisker)", strokeDash=[2, 3]).encode(
            x=alt.X("predicted:Q", scale=_log(low, high)), x2="measured:Q"
        ),
        each.mark_rule(yOffset=9, color="var(--whisker)", strokeWidth=2).encode(
            x=alt.X("low:Q", scale=_log(low, high)), x2="high:Q"
        ),
        each.mark_point(shape="diamond", size=110, yOffset=9, filled=True, fill="var(--panel)", stroke="var(--chain-1)",
                        strokeWidth=2, opacity=1).encode(x=alt.X("predicted:Q", scale=_log(low, high))),
        each.mark_point(shape="circle", size=90, yOffset=9, filled=True, color="var(--chain-0)", opacity=1).encode(x=x),
    )  # fmt: skip
    return finish(with_names(layers, len(labels)), {"points": values, "labels": labels})


def row_axis() -> Any:
    """Rows by number, without an axis: `with_names` names them."""
    import altair as alt

    return alt.Y("row:O", axis=None, scale=alt.Scale(padding=0))


def with_names(chart: Any, rows: int) -> Any:
    """``chart`` with a line of text above each row: the strategy, and a figure in a softer colour at the right."""
    import altair as alt

    text = alt.Chart(alt.NamedData("labels")).encode(y=row_axis())
    name = text.mark_text(align="left", yOffset=-10, fontWeight=600).encode(x=alt.value(0), text="label:N")
    figure = text.mark_text(align="right", yOffset=-10, color="var(--ink-soft)").encode(
        x=alt.value("width"), text="figure:N"
    )
    # A height in steps would be the natural thing to say, but Vega-Lite warns of it beside a fitted width.
    return alt.layer(chart, name, figure).properties(width="container", height=ROW_PX * max(rows, 1), autosize=_FIT)


def _log(low: float, high: float) -> Any:
    import altair as alt

    return alt.Scale(type="log", domain=[low, high], nice=False)


def _log_axis(low: float, high: float) -> Any:
    import altair as alt

    return alt.Axis(values=log_ticks(low, high), labelExpr=MS_LABEL)


def _named(mapping: Mapping[str, str]) -> Any:
    import altair as alt

    return alt.Scale(domain=list(mapping), range=list(mapping.values()))


def finish(chart: Any, sets: Mapping[str, list[Spec]]) -> Spec:
    """Plain data with the rows of its data sets, which need no checking against the schema as the rest gets it.

    Without the address of that schema and Altair's default look.
    """
    spec: Spec = chart.to_dict()
    return {key: value for key, value in spec.items() if key not in {"$schema", "config"}} | {"datasets": dict(sets)}
