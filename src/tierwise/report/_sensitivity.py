"""Which deployment wins at which bandwidth, by the analytic link model; how well that model holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tierwise._units import format_bytes, format_frac, format_rate, format_seconds
from tierwise.planner import LinkCheck, Recommendation, Region, Sweep
from tierwise.report._choices import WITHIN, Choices
from tierwise.report._table import Cell, Column, Table

__all__ = ["Band", "Lane", "Sensitivity", "sensitivity"]

_COLOURS = 6
_NOTHING = "nothing fits"


@final
@dataclass(frozen=True)
class Band:
    """A range of rates with one winner.

    Attributes:
        low: Bits per second.
        high: Bits per second.
        winner: Id, or that nothing fits.
        letter: Its letter in the legend; empty where nothing fits.
        colour: Its CSS colour.
    """

    low: float
    high: float
    winner: str
    letter: str
    colour: str


@final
@dataclass(frozen=True)
class Lane:
    """One link and one question: a row of the chart.

    Attributes:
        link: ``mobile - edge``.
        need: ``fastest``, or with the budget.
        now: Rate as measured, upwards.
        bands: From low to high, without gaps.
    """

    link: str
    need: str
    now: float
    bands: tuple[Band, ...]


@final
@dataclass(frozen=True)
class Sensitivity:
    """The chart's rows and what is said beside it.

    Attributes:
        lanes: Rows.
        legend: Letter, winner and colour.
        said: What the rows say, a sentence each.
        validation: How far the link model was off where it could be checked.
        table: Rates, round trips and sizes of input, with the winners.
        notes: What the planner wants a reader to know of these.
    """

    lanes: tuple[Lane, ...]
    legend: tuple[tuple[str, str, str], ...]
    said: tuple[str, ...]
    validation: str
    table: Table
    notes: tuple[str, ...]


def sensitivity(choices: Choices) -> Sensitivity | None:
    """What other links would change; None where there are no links, or their figures are unknown."""
    asked = [("fastest", choices.fastest)]
    if choices.thrifty is not None and choices.thrifty.sweeps:
        asked.append((f"fastest, {WITHIN}", choices.thrifty))
    if choices.beyond is not None:
        asked.append(("fastest beyond the device", choices.beyond))
    rates = _merged([(need, sweep) for need, found in asked for sweep in found.sweeps if sweep.axis == "rate"])
    if not rates:
        return None
    winners = list(dict.fromkeys(region.winner for _, sweep in rates for region in sweep.regions if region.winner))
    letters = {winner: (chr(ord("A") + i % 26), f"var(--chain-{i % _COLOURS})") for i, winner in enumerate(winners)}
    lanes = tuple(
        Lane(link=sweep.link, need=need, now=sweep.now, bands=tuple(_band(one, letters) for one in sweep.regions))
        for need, sweep in rates
    )
    fresh = [note for _, found in asked for note in found.notes if "what-if" in note]
    return Sensitivity(
        lanes=lanes,
        legend=tuple((letter, winner, colour) for winner, (letter, colour) in letters.items()),
        said=tuple(_sentence(lane) for lane in lanes),
        validation=_validation(choices.fastest.link_checks),
        table=_table(asked),
        notes=tuple(dict.fromkeys(fresh)),
    )


def _merged(rates: list[tuple[str, Sweep]]) -> list[tuple[str, Sweep]]:
    """Link by link; two questions with the same answer at every rate are one row."""
    rows: dict[tuple[str, tuple[Region, ...]], tuple[str, Sweep]] = {}
    for need, sweep in rates:
        before = rows.get((sweep.link, sweep.regions))
        both = need if before is None else f"{before[0]}; the same {need.removeprefix('fastest, ')}"
        rows[sweep.link, sweep.regions] = (both, sweep)
    links = list(dict.fromkeys(sweep.link for _, sweep in rates))
    return sorted(rows.values(), key=lambda entry: links.index(entry[1].link))


def _band(region: Region, letters: dict[str, tuple[str, str]]) -> Band:
    letter, colour = letters[region.winner] if region.winner else ("", "var(--stage-other)")
    return Band(region.low, region.high, region.winner or _NOTHING, letter, colour)


def _sentence(lane: Lane) -> str:
    what = f"{lane.link}, {lane.need}".replace("; the same", ", the same")
    if len(lane.bands) == 1:
        only = lane.bands[0]
        return f"{what}: {only.winner} at every rate from {format_rate(only.low)} to {format_rate(only.high)}."
    steps = [f"{lane.bands[0].winner} up to {format_rate(lane.bands[0].high)}"]
    steps += [f"from there {band.winner}" for band in lane.bands[1:2]]
    steps += [f"from {format_rate(band.low)} {band.winner}" for band in lane.bands[2:]]
    return f"{what}: {', '.join(steps)}."


def _validation(checks: Sequence[LinkCheck]) -> str:
    if not checks:
        return "No link's time was measured on its own here, so the link model could not be checked."
    bare = sorted(abs(one.error_frac) for one in checks)
    said = (
        f"Checked against {len(checks)} measured link times: from bytes, rate and round trip alone the model is off by "
        f"{format_frac(statistics.median(bare))} at the median and {format_frac(bare[-1])} at most"
    )
    held = sorted(abs(one.held_out_error_frac) for one in checks if one.held_out_error_frac is not None)
    if held:
        said += (
            "; with each link's fixed overhead learnt from all other cells, so that the checked one is held out, by "
            f"{format_frac(statistics.median(held))} at the median and {format_frac(held[-1])} at most"
        )
    return f"{said}."


def _table(asked: Sequence[tuple[str, Recommendation]]) -> Table:
    columns = (
        Column("Varied"),
        Column("For"),
        Column("As measured", numeric=True),
        Column("Winner by range", wide=True, unit="modelled"),
    )
    names = {"rate": "bandwidth", "rtt": "round trip", "input": "size of the input"}
    rows = tuple(
        (
            Cell(names[sweep.axis], note=sweep.link),
            Cell(need),
            Cell(_show(sweep, sweep.now)),
            Cell("; ".join(_range(sweep, one) for one in sweep.regions)),
        )
        for need, found in asked
        for sweep in found.sweeps
    )
    return Table(caption="What would change the winner", columns=columns, rows=rows)


def _range(sweep: Sweep, one: Region) -> str:
    return f"{_show(sweep, one.low)} to {_show(sweep, one.high)}: {one.winner or _NOTHING}"


def _show(sweep: Sweep, value: float) -> str:
    match sweep.unit:
        case "bit/s":
            return format_rate(value)
        case "s":
            return format_seconds(value)
        case _:
            return format_bytes(value)
