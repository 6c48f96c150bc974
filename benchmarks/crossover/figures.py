"""The tables of docs/split.md from docs/results/crossover.json: predictions, crossovers, and the planner's picks.

    python benchmarks/crossover/figures.py

What a way takes is known from one cell, the fastest of `FIT_RATES_BPS`; what a message costs is fitted on the cells of
those three rates. All other cells, and the whole grid, are held out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierwise.planner import Message, Observed, Way, accurate_way, crossovers, fastest_way, fit_message, predict_way
from tierwise.topology import Link

RESULT = Path(__file__).resolve().parents[2] / "docs" / "results" / "crossover.json"
FIT_RATES_BPS = (0.2e6, 5e6, 100e6)
DEADLINES_S = (0.02, 0.025, 0.03, 0.05, 0.1, 0.2, 0.4)
# Two standard errors of a median.
NOISE = 2.0

Cell = dict[str, Any]


def link_of(cell: Cell) -> Link:
    """The link of a cell."""
    return Link(
        lower="device",
        upper="above",
        up_bps=cell["rate_bps"],
        down_bps=cell["rate_bps"],
        rtt_s=cell["rtt_s"],
        loss_frac=cell["loss_frac"],
    )


def ways_of(content: dict[str, Any]) -> list[Way]:
    """What is known of each strategy: from the fastest cell of the fit, and its accuracy from the check."""
    (known,) = (cell for cell in content["rates"] if cell["rate_bps"] == max(FIT_RATES_BPS))
    return [
        Way(
            name,
            one["below_s"],
            one["above_s"],
            round(one["up_bytes"]),
            round(one["down_bytes"]),
            crosses=content["check"][name]["where"] != "local",
            accuracy_frac=content["check"][name]["accuracy"],
        )
        for name, one in known["strategies"].items()
    ]


def fitted(content: dict[str, Any]) -> Message:
    """What a message costs, by the cells of the fit."""
    ways = {way.name: way for way in ways_of(content)}
    return fit_message(
        [
            Observed(ways[name], link_of(cell), one["median_s"])
            for cell in content["rates"]
            if cell["rate_bps"] in FIT_RATES_BPS
            for name, one in cell["strategies"].items()
        ]
    )


@dataclass(frozen=True)
class Error:
    """A prediction and what was measured.

    Attributes:
        name: Strategy.
        cell: Where.
        predicted_s: Usual latency.
        measured_s: Median.
    """

    name: str
    cell: Cell
    predicted_s: float
    measured_s: float

    @property
    def frac(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_s / self.measured_s - 1


def errors(content: dict[str, Any], cells: Sequence[Cell]) -> list[Error]:
    """All strategies of all cells."""
    ways, message = {way.name: way for way in ways_of(content)}, fitted(content)
    return [
        Error(name, cell, predict_way(ways[name], link_of(cell), message).total_s, one["median_s"])
        for cell in cells
        for name, one in cell["strategies"].items()
    ]


def held_out(content: dict[str, Any]) -> list[Cell]:
    """Cells of the curve that the fit has not seen."""
    return [cell for cell in content["rates"] if cell["rate_bps"] not in FIT_RATES_BPS]


def summary(found: Sequence[Error]) -> tuple[float, Error]:
    """Median of the absolute relative errors, and the worst."""
    return statistics.median(abs(one.frac) for one in found), max(found, key=lambda one: abs(one.frac))


@dataclass(frozen=True)
class Pick:
    """What the planner took in a cell.

    Attributes:
        cell: Where.
        name: Its pick.
        best: The right one by measured medians.
        near: Whether the pick is as good within two standard errors of the medians.
        regret_s: How much longer it took than the best.
    """

    cell: Cell
    name: str
    best: str
    near: bool
    regret_s: float


def fastest_picks(content: dict[str, Any]) -> list[Pick]:
    """The fastest way, in every cell of the grid."""
    ways, message, picks = ways_of(content), fitted(content), []
    for cell in content["grid"]:
        seen = cell["strategies"]
        name = fastest_way([way for way in ways if way.name in seen], link_of(cell), message).name
        best = min(seen, key=lambda one: seen[one]["median_s"])
        regret_s = seen[name]["median_s"] - seen[best]["median_s"]
        noise_s = NOISE * (seen[name]["error_s"] ** 2 + seen[best]["error_s"] ** 2) ** 0.5
        picks.append(Pick(cell, name, best, regret_s <= noise_s, regret_s))
    return picks


def accurate_picks(content: dict[str, Any], deadline_s: float) -> list[Pick]:
    """The most accurate way that meets a deadline, in every cell of the grid."""
    ways, message, picks = ways_of(content), fitted(content), []
    for cell in content["grid"]:
        seen = cell["strategies"]
        able = {way.name: way for way in ways if way.name in seen}
        name = accurate_way(list(able.values()), link_of(cell), deadline_s, message).name
        fit = [one for one in seen if seen[one]["median_s"] <= deadline_s]
        accuracies = {one: able[one].accuracy_frac if fit else 0.0 for one in seen}
        best = min((-accuracies[one], seen[one]["median_s"], one) for one in fit or seen)[2]
        late_s = seen[name]["median_s"] - NOISE * seen[name]["error_s"]
        surely = [one for one in seen if seen[one]["median_s"] + NOISE * seen[one]["error_s"] <= deadline_s]
        better = [one for one in surely if able[one].accuracy_frac > able[name].accuracy_frac]
        noise_s = NOISE * (seen[name]["error_s"] ** 2 + seen[best]["error_s"] ** 2) ** 0.5
        regret_s = seen[name]["median_s"] - seen[best]["median_s"]
        near = (late_s <= deadline_s and not better) if fit else regret_s <= noise_s
        picks.append(Pick(cell, name, best, name == best or near, regret_s))
    return picks


def counts(picks: Sequence[Pick]) -> tuple[str, str]:
    """How many are right, and how many within noise."""
    right, near = sum(one.name == one.best for one in picks), sum(one.near for one in picks)
    return tuple(f"{one} of {len(picks)} ({one / len(picks):.1%})" for one in (right, near))  # type: ignore[return-value]


def curve(content: dict[str, Any]) -> list[str]:
    """Measured medians by rate, in milliseconds; the smallest of a row is marked."""
    names = list(content["check"])
    lines = ["| Mbit/s | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for cell in content["rates"]:
        seen = cell["strategies"]
        best = min(seen, key=lambda one: seen[one]["median_s"])
        row = [f"{1e3 * seen[n]['median_s']:.0f}" if n in seen else "" for n in names]
        row = [f"**{text}**" if n == best else text for n, text in zip(names, row, strict=True)]
        lines.append(f"| {cell['rate_bps'] / 1e6:g} | " + " | ".join(row) + " |")
    return lines


def stages(content: dict[str, Any]) -> list[str]:
    """What each strategy does and sends."""
    lines = [
        "| strategy | device, ms | above, ms | message up, B | packets up, B | message down, B | same answers |",
        "|---" * 7 + "|",
    ]
    for way in ways_of(content):
        one = content["check"][way.name]
        lines.append(
            f"| {way.name} | {1e3 * way.below_s:.1f} | {1e3 * way.above_s:.1f} | {one['up_bytes']:.0f} | "
            f"{one['wire_up_bytes']:.0f} | {one['down_bytes']:.0f} | {one['same_class']} of {one['items']} |"
        )
    return lines


def regions(content: dict[str, Any]) -> list[str]:
    """Predicted winners by rate."""
    link, found = (
        link_of(content["rates"][0]),
        ["| predicted to be fastest | from, Mbit/s | to, Mbit/s |", "|---|---|---|"],
    )
    for one in crossovers(ways_of(content), link, 0.05e6, 200e6, fitted(content)).regions:
        found.append(f"| {one.winner} | {one.low / 1e6:.3g} | {one.high / 1e6:.3g} |")
    return found


def predictions(content: dict[str, Any]) -> list[str]:
    """Errors of the predicted latencies."""
    grid = content["grid"]
    parts = [("held-out rates, round trip 10 ms", held_out(content)), ("grid", grid)]
    parts += [
        (f"grid, {100 * loss:g} % loss", [cell for cell in grid if cell["loss_frac"] == loss])
        for loss in sorted({cell["loss_frac"] for cell in grid})
    ]
    lines = ["| cells | latencies | median error | within 10 % | worst |", "|---|---|---|---|---|"]
    for title, cells in parts:
        found = errors(content, cells)
        middle, worst = summary(found)
        within = sum(abs(one.frac) < 0.1 for one in found)
        link = link_of(worst.cell)
        where = f"{link.up_bps / 1e6:g} Mbit/s, {1e3 * link.rtt_s:g} ms, {100 * link.loss_frac:g} %"
        times = f"{1e3 * worst.predicted_s:.0f} ms for {1e3 * worst.measured_s:.0f}"
        told = f"{worst.frac:+.1%}: {worst.name} at {where}, {times}"
        lines.append(f"| {title} | {len(found)} | {middle:.1%} | {within} | {told} |")
    return lines


def picks(content: dict[str, Any]) -> list[str]:
    """How often the planner's pick is the best."""
    asked = [("fastest", fastest_picks(content))]
    asked += [(f"most accurate within {1e3 * one:g} ms", accurate_picks(content, one)) for one in DEADLINES_S]
    lines = [
        "| asked for | right | within noise | most time lost |",
        "|---|---|---|---|",
    ]
    for title, found in asked:
        right, near = counts(found)
        lost_s = max(one.regret_s for one in found)
        lines.append(f"| {title} | {right} | {near} | {f'{1e3 * lost_s:.1f} ms' if title == 'fastest' else ''} |")
    return lines


def fixed(content: dict[str, Any]) -> str:
    """What a message costs."""
    message = fitted(content)
    return f"{1e3 * message.seconds:.2f} ms and {message.bytes:.0f} bytes"


def main() -> None:
    """Print everything that the text quotes."""
    content = json.loads(RESULT.read_text(encoding="utf-8"))
    print(f"a message costs {fixed(content)}")
    for table in (stages, curve, regions, predictions, picks):
        print("\n".join(["", *table(content)]))


if __name__ == "__main__":
    main()
