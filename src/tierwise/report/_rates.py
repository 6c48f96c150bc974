"""Coded latents by the three measures of SC2, and the encoder's arithmetic: what a device stores, computes and sends.

Source of the measures: Matsubara et al. 2023, SC2 benchmark (arXiv 2203.08875): bits of the encoder's parameters, bytes
of an item, the task's metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_bytes, format_frac
from tierwise.report._axis import log_domain, log_ticks, short
from tierwise.report._charts import Spec, finish
from tierwise.report._part import Drawn
from tierwise.report._table import Cell, Column, Table
from tierwise.study import StudyData

__all__ = ["Measured", "measured", "rates_chart", "rates_table"]


@final
@dataclass(frozen=True)
class Measured:
    """One rate of one variant.

    Attributes:
        strategies: Names of the strategies that use the variant.
        chain: Its operators.
        channels: Channels sent.
        item_bytes: Mean frame of one item, on the validation split.
        metric: Name of the metric.
        value: On the validation split, from what arrives.
        test: The same on the test split, where that was measured: with all channels only.
        encoder_bits: Of all parameters of the device's segment.
        encoder_macs: Multiply-accumulates of an item on the device.
    """

    strategies: str
    chain: str
    channels: int
    item_bytes: float
    metric: str
    value: float
    test: float | None
    encoder_bits: int
    encoder_macs: int


def measured(data: StudyData) -> list[Measured]:
    """Every rate of every variant that codes a latent."""
    found = []
    for key, variant in data.variants.items():
        names = dict.fromkeys(strategy.name for strategy in data.strategies if strategy.variant == key)
        for segment in variant.manifest.segments:
            if segment.boundary is None:
                continue
            most = segment.boundary.rates[-1].channels
            tests = {one.metric: one.value for one in variant.manifest.accuracy if one.split == "test"}
            found += [
                Measured(
                    strategies=", ".join(names),
                    chain=variant.manifest.provenance.chain,
                    channels=rate.channels,
                    item_bytes=rate.item_bytes,
                    metric=rate.metric,
                    value=rate.value,
                    test=tests.get(rate.metric) if rate.channels == most else None,
                    encoder_bits=segment.boundary.encoder_bits,
                    encoder_macs=segment.macs,
                )
                for rate in segment.boundary.rates
            ]
    return found


def rates_chart(points: Sequence[Measured]) -> Drawn:
    """Metric against bytes of an item; a larger mark is a larger encoder. Rates of one variant are joined."""
    import altair as alt

    rows: list[Spec] = [
        {
            "strategy": point.strategies,
            "label": f"{short(point.strategies, 24)}, {point.channels}",
            "bytes": point.item_bytes,
            "value": point.value,
            "bits": point.encoder_bits,
            "sent": f"{format_bytes(point.item_bytes)} in {point.channels} channels",
            "metric": format_frac(point.value),
            "encoder": format_bytes(point.encoder_bits / 8),
            "macs": f"{point.encoder_macs:,}",
        }
        for point in points
    ]
    low, high = log_domain(point.item_bytes for point in points)
    x = alt.X(
        "bytes:Q",
        title="bytes of an item on the wire, logarithmic",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=log_ticks(low, high), format="~g"),
    )
    values = [point.value for point in points]
    room = max(0.15 * (max(values) - min(values)), 0.004)
    y = alt.Y(
        "value:Q",
        title=f"{points[0].metric} on the validation split",
        scale=alt.Scale(domain=[max(0.0, min(values) - room), min(1.0 + room, max(values) + room)], nice=False),
        axis=alt.Axis(format=".1%", tickCount=5),
    )
    most = max(point.encoder_bits for point in points)
    about = [
        alt.Tooltip("strategy:N"),
        alt.Tooltip("sent:N", title="data"),
        alt.Tooltip("metric:N", title=points[0].metric),
        alt.Tooltip("encoder:N", title="encoder"),
        alt.Tooltip("macs:N", title="its multiply-accumulates"),
    ]
    drawn = alt.Chart(alt.NamedData("rates")).encode(x=x, y=y)
    size = alt.Size("bits:Q", scale=alt.Scale(domain=[0, most], range=[30, 320]), legend=None)
    marks = drawn.mark_point(filled=True, opacity=0.85, stroke="var(--panel)", strokeWidth=1, color="var(--chain-1)")
    lines = drawn.mark_line(strokeWidth=1.5, color="var(--chain-1)", opacity=0.5).encode(detail="strategy:N")
    names = drawn.mark_text(dy=-14, align="center", stroke="var(--panel)", strokeWidth=4, strokeJoin="round")
    labels = [mark.encode(text="label:N") for mark in (names, drawn.mark_text(dy=-14, align="center"))]
    chart = alt.layer(lines, marks.encode(size=size, tooltip=about), *labels)
    chart = chart.properties(width="container", height=340, autosize={"type": "fit-x", "contains": "padding"})
    said = "; ".join(f"{row['strategy']}: {row['sent']}, {points[0].metric} {row['metric']}" for row in rows)
    return Drawn("rates", finish(chart, {"rates": rows}), f"What coded latents cost and keep. {said}.")


def rates_table(points: Sequence[Measured]) -> Table:
    """The figures of the chart, and the test split's."""
    columns = (
        Column("Strategy"),
        Column("Data", numeric=True, unit="of an item, framed"),
        Column("Metric", numeric=True, unit="validation split"),
        Column("Metric", numeric=True, unit="test split"),
        Column("Encoder", numeric=True, unit="bits of its parameters"),
        Column("Encoder", numeric=True, unit="multiply-accumulates"),
    )
    return Table(caption="Coded latents", columns=columns, rows=tuple(_row(point) for point in points))


def _row(point: Measured) -> tuple[Cell, ...]:
    return (
        Cell(point.strategies, note=f"{point.chain}, {point.channels} channels"),
        Cell(format_bytes(point.item_bytes), key=point.item_bytes),
        Cell(format_frac(point.value), key=point.value),
        Cell("", soft=True) if point.test is None else Cell(format_frac(point.test), key=point.test),
        Cell(f"{point.encoder_bits:,}", key=point.encoder_bits),
        Cell(f"{point.encoder_macs:,}", key=point.encoder_macs),
    )
