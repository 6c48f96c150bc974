"""Charts of training schemes: how well each learns against what it takes, and the memory of one step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tierwise._units import format_bytes
from tierwise.report._axis import log_domain, log_ticks, short
from tierwise.report._charts import ROW_PX, Spec, finish, row_axis, with_names
from tierwise.training import Trace

__all__ = ["largest_tensors", "live_bytes", "scatter"]

_FIT = {"type": "fit-x", "contains": "padding"}
_MOST_MOMENTS = 400
_MB = 1e6


def scatter(points: Sequence[Spec], colours: Mapping[str, str], across: str, upwards: str) -> Spec:
    """Metric of every scheme, a line over its seeds, named.

    Args:
        points: ``scheme``, ``at`` (across), ``test``, ``worst``, ``best``, ``shown`` and ``metric`` of each.
        colours: Of the schemes.
        across: Title of the axis.
        upwards: Title of the other one.
    """
    import altair as alt

    low, high = log_domain((point["at"] for point in points), room=0.12)
    ends = [point[key] for point in points for key in ("worst", "best")]
    room = max(0.15 * (max(ends) - min(ends)), 0.004)
    x = alt.X(
        "at:Q",
        title=across,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=log_ticks(low, high), format="~g"),
    )
    scale = alt.Scale(domain=[min(ends) - room, max(ends) + room], nice=False)
    y = alt.Y("test:Q", title=upwards, scale=scale, axis=alt.Axis(format=".1%", tickCount=5))
    colour = alt.Color("scheme:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None)
    base = alt.Chart(alt.NamedData("points"))
    about = [alt.Tooltip("scheme:N"), alt.Tooltip("shown:N", title="takes"), alt.Tooltip("metric:N")]
    marks = base.mark_point(filled=True, size=95, opacity=1, stroke="var(--panel)", strokeWidth=1)
    # Named towards the middle, so that no name leaves the chart.
    placed = [
        {**point, "label": short(str(point["scheme"]), 24), "left": point["at"] ** 2 < low * high} for point in points
    ]
    names = [
        base.transform_filter(f"{'' if left else '!'}datum.left").mark_text(
            align="left" if left else "right", dx=9 if left else -9, fontWeight=600
        )
        for left in (True, False)
    ]
    layers = [
        base.mark_rule(opacity=0.45, strokeWidth=1.5).encode(
            x=x, y=alt.Y("worst:Q", scale=scale), y2="best:Q", color=colour
        ),
        marks.encode(x=x, y=y, color=colour, tooltip=about),
        *(name.encode(x=x, y=y, text="label:N") for name in names),
    ]
    chart = alt.layer(*layers).properties(width="container", height=340, autosize=_FIT)
    return finish(chart, {"points": placed})


def live_bytes(traces: Sequence[Trace], colours: Mapping[str, str]) -> Spec:
    """Bytes alive over one step, one line for each scheme; across lies the share of its operators that has run."""
    import altair as alt

    rows = [
        {"scheme": trace.scheme, "at": i / max(len(kept) - 1, 1), "mb": size / _MB, "shown": format_bytes(size)}
        for trace in traces
        for kept in [_thinned(trace.live_bytes)]
        for i, size in enumerate(kept)
    ]
    chart = (
        alt.Chart(alt.NamedData("moments"))
        .mark_line(interpolate="step-after", strokeWidth=1.8)
        .encode(
            x=alt.X("at:Q", title="share of the operators that have run", axis=alt.Axis(format=".0%", tickCount=6)),
            y=alt.Y("mb:Q", title="intermediate tensors alive, MB"),
            color=alt.Color(
                "scheme:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None
            ),
            tooltip=[alt.Tooltip("scheme:N"), alt.Tooltip("shown:N", title="alive")],
        )
        .properties(width="container", height=300, autosize=_FIT)
    )
    return finish(chart, {"moments": rows})


def _thinned(sizes: Sequence[int]) -> list[int]:
    """At most some hundred moments; of those that stand together the largest."""
    if len(sizes) <= _MOST_MOMENTS:
        return list(sizes)
    edges = [round(i * len(sizes) / _MOST_MOMENTS) for i in range(_MOST_MOMENTS + 1)]
    return [max(sizes[a:b]) for a, b in itertools.pairwise(edges)]


def largest_tensors(trace: Trace) -> Spec:
    """When the largest tensors at the peak live: one bar each, from the operator that makes it to its last reader."""
    import altair as alt

    spans = sorted(trace.largest, key=lambda one: (-one.bytes, one.first))
    bars = [
        {"row": row, "name": one.name, "first": one.first, "last": one.last + 1, "size": format_bytes(one.bytes)}
        for row, one in enumerate(spans)
    ]
    labels = [{"row": bar["row"], "label": short(str(bar["name"])), "figure": bar["size"]} for bar in bars]
    peak = max(range(len(trace.live_bytes)), key=lambda i: trace.live_bytes[i], default=0)
    scale = alt.Scale(domain=[0, max(len(trace.live_bytes), 1)], nice=False)
    x = alt.X("first:Q", title="operator of the step; the line: the peak", scale=scale)
    bar = (
        alt.Chart(alt.NamedData("bars"))
        .mark_bar(height=12, yOffset=9, color="var(--chain-0)")
        .encode(x=x, x2="last:Q", y=row_axis(), tooltip=[alt.Tooltip("name:N"), alt.Tooltip("size:N")])
    )
    rule = alt.Chart(alt.NamedData("peak")).mark_rule(color="var(--front)", strokeDash=[5, 4]).encode(x=x)
    chart = with_names(alt.layer(bar, rule), len(labels)).properties(height=ROW_PX * max(len(labels), 1))
    return finish(chart, {"bars": bars, "labels": labels, "peak": [{"first": peak + 0.5}]})
