"""The section on what a device stores, computes and sends: chart, controls, table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_bytes, format_frac
from tierwise.planner import Evidence
from tierwise.report._send_chart import SendChart, bits_text, send_chart
from tierwise.report._sends import Sent, sends
from tierwise.report._table import Cell, Column, Table, Tag
from tierwise.study import StudyData

__all__ = ["Rates", "rates"]


@final
@dataclass(frozen=True)
class Rates:
    """The section.

    Attributes:
        chart: None where no way to send has all three measures yet.
        metric: Name of the metric.
        table: Every way, in the chart's numbers.
        left_out: How many of them the chart lacks.
    """

    chart: SendChart | None
    metric: str
    table: Table
    left_out: int


def rates(data: StudyData, evidence: Evidence | None) -> Rates | None:
    """The section of a study; None where nothing codes a latent."""
    ways = sends(data, evidence)
    if not ways:
        return None
    return Rates(
        chart=send_chart(ways),
        metric=ways[0].metric,
        table=_table(ways),
        left_out=sum(not way.drawn for way in ways),
    )


def _table(ways: Sequence[Sent]) -> Table:
    columns = (
        Column("Strategy"),
        Column("Sent", numeric=True, unit="a request, on the link"),
        Column(ways[0].metric.capitalize(), numeric=True, unit="test split"),
        Column("Encoder", numeric=True, unit="bits of its parameters"),
        Column("Arithmetic", numeric=True, unit="MACs on the device"),
        Column("Frame", numeric=True, unit="an item, validation split"),
        Column(ways[0].metric.capitalize(), numeric=True, unit="validation split"),
        Column("Method"),
    )
    return Table(
        caption="What a device stores, computes and sends",
        columns=columns,
        rows=tuple(_row(number, way) for number, way in enumerate(ways, 1)),
        sortable=True,
        marked=frozenset(i for i, way in enumerate(ways) if way.on_front),
    )


def _row(number: int, way: Sent) -> tuple[Cell, ...]:
    note = way.chain if way.channels is None else f"{way.chain}, {way.channels} channels"
    tags = (Tag("Pareto front", "front"),) if way.on_front else ()
    return (
        Cell(f"{number}. {way.strategies}", note=note, key=number, tags=tags),
        _missing() if way.link_bytes is None else Cell(_bytes(way.link_bytes), key=way.link_bytes),
        _frac(way.test),
        Cell(bits_text(way.device_bits).partition(" ")[0], key=way.device_bits),
        Cell(f"{way.device_macs:,}", key=way.device_macs),
        _missing() if way.frame_bytes is None else Cell(format_bytes(way.frame_bytes), key=way.frame_bytes),
        _frac(way.validation),
        Cell(way.method, key=way.method),
    )


def _bytes(size: float) -> str:
    return format_bytes(size) if size else "nothing"


def _frac(value: float | None) -> Cell:
    return _missing() if value is None else Cell(format_frac(value), key=value)


def _missing() -> Cell:
    return Cell("–", soft=True)  # noqa: RUF001 - the dash of a table
