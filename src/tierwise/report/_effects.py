"""Every deployment against every other: how large the difference is, whether it is certain, whether it matters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tierwise.planner import Contrast
from tierwise.report._choices import Choices
from tierwise.report._table import Cell, Column, Table

__all__ = ["EffectCell", "EffectMap", "effects", "p_text"]

_MOST = 40  # beyond, the map is a wallpaper: the fastest are shown
_MOST_PAIRS = 500
_NAMED = 8
_ALPHA = 0.05
_BANDS = ("negligible", "small", "medium", "large")


@final
@dataclass(frozen=True)
class EffectCell:
    """One pair, seen from its row.

    Attributes:
        text: The figure: a ratio of medians above the diagonal, Cliff's delta below it; empty on it.
        note: The interval or the band.
        tone: ``f0`` to ``f3``: the row is faster, by band; ``s0`` to ``s3``: it is slower.
        sure: Whether the pair's test finds a difference.
        p: Its p-value in words.
        verdict: What the ratio's interval allows to claim of the row.
    """

    text: str = ""
    note: str = ""
    tone: str = ""
    sure: bool = False
    p: str = ""
    verdict: str = ""


@final
@dataclass(frozen=True)
class EffectMap:
    """The map and what it says.

    Attributes:
        names: Deployments, the fastest first; the rows and the columns.
        rows: Cells.
        overall: The test over all of them, in words.
        claims: What is claimed and what is not, in words: pairs that differ, that do not, and those left open.
        equal: The pairs for which "no difference that matters" is a claim.
        pairs: Every pair with all its figures; None where they are too many for a page.
        left_out: How many slower deployments the map leaves out.
        margin: The margin in words.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[EffectCell, ...], ...]
    overall: str
    claims: str
    equal: tuple[str, ...]
    pairs: Table | None
    left_out: int
    margin: str


def effects(choices: Choices) -> EffectMap | None:
    """The map of one subject; None where there is nothing to compare."""
    names = tuple(one.id for one in choices.deployments[:_MOST])
    if len(names) < 2 or choices.comparison.tests is None:
        return None
    # Computed once a pair, the faster one first; the other half of the map is its mirror image.
    found = {(a, b): choices.comparison.contrast(a, b) for a, b in itertools.combinations(names, 2)}
    rows = tuple(
        tuple(
            EffectCell() if a == b else _upper(found[a, b]) if (a, b) in found else _lower(found[b, a]) for b in names
        )
        for a in names
    )
    margin = f"{100 * choices.margin_frac:g} %"
    contrasts = list(found.values())
    return EffectMap(
        names=names,
        rows=rows,
        overall=_overall(choices),
        claims=_claims(contrasts, margin),
        equal=tuple(_equal(contrasts)),
        pairs=_pairs(contrasts, choices) if len(contrasts) <= _MOST_PAIRS else None,
        left_out=len(choices.deployments) - len(names),
        margin=margin,
    )


def _tone(one: Contrast, *, mirrored: bool) -> str:
    faster = (one.delta.value <= 0) != mirrored
    return f"{'f' if faster else 's'}{_BANDS.index(one.delta.band)}"


def _upper(one: Contrast) -> EffectCell:
    ratio = one.ratio
    return EffectCell(
        text=f"{'≈ ' if one.verdict == 'equivalent' else ''}{_figure(ratio.value)}",
        note=_ends(one),
        tone=_tone(one, mirrored=False),
        sure=one.p < _ALPHA,
        p=p_text(one.p),
        verdict=one.verdict,
    )


def _lower(one: Contrast) -> EffectCell:
    turned = {"faster": "slower", "slower": "faster"}.get(one.verdict, one.verdict)
    return EffectCell(
        text=f"{round(-one.delta.value, 2) + 0.0:+.2f}",
        note=one.delta.band,
        tone=_tone(one, mirrored=True),
        sure=one.p < _ALPHA,
        p=p_text(one.p),
        verdict=turned,
    )


def _ends(one: Contrast) -> str:
    return f"{_figure(one.ratio.low)}–{_figure(one.ratio.high)}"  # noqa: RUF001 - the dash of a range


def _figure(value: float) -> str:
    """Two decimals near 1, two digits far from it: what fits a narrow cell."""
    return f"{value:.2f}" if value >= 0.0995 else f"{value:.2g}"


def p_text(p: float) -> str:
    """As ``p = 0.013``, with spaces that do not break."""
    return "p\u00a0<\u00a00.0001" if p < 1e-4 else f"p\u00a0=\u00a0{p:.2g}"


def _overall(choices: Choices) -> str:
    tests = choices.comparison.tests
    if tests is None:
        return ""
    count = len(choices.comparison.deployments)
    figures = f"chi-square {tests.statistic:.4g} with {count - 1} degrees of freedom, {p_text(tests.p)}"
    if tests.blocks is None:
        return f"{_differ(tests.p)} ({tests.label}: {figures})."
    blocks = f"{tests.blocks:,} blocks in which all {count} answered the same request"
    dropped = f"; {tests.dropped:,} incomplete ones were left out" if tests.dropped else ""
    return f"{_differ(tests.p)}: Friedman's test over {blocks} gives {figures}{dropped}."


def _differ(p: float) -> str:
    return "The deployments differ in latency" if p < _ALPHA else "No difference in latency was found over all"


def _claims(contrasts: Sequence[Contrast], margin: str) -> str:
    total = len(contrasts)
    sure = sum(one.p < _ALPHA for one in contrasts)
    large = sum(one.delta.band == "large" for one in contrasts)
    equal = sum(one.verdict == "equivalent" for one in contrasts)
    unsure = sum(one.verdict == "undecided" for one in contrasts)
    said = f"Of {total} pairs, {sure} differ at the 5 % level, and {large} by a large effect."
    if equal:
        said += (
            f" For {equal} “no difference that matters” is a claim: the whole interval of the ratio lies within "
            f"a margin of {margin}. A difference may be certain and still be too small to matter."
        )
    else:
        said += f" For none of them “no difference” (within {margin}) can be claimed."
    if unsure:
        said += f" {unsure} {'is' if unsure == 1 else 'are'} left open: neither a difference nor its absence is shown."
    return said


def _equal(contrasts: Sequence[Contrast]) -> list[str]:
    found = [
        f"{one.first} and {one.second}: ratio {_figure(one.ratio.value)} [{_figure(one.ratio.low)}, "
        f"{_figure(one.ratio.high)}]"
        for one in contrasts
        if one.verdict == "equivalent"
    ]
    more = len(found) - _NAMED
    return found if more <= 1 else [*found[:_NAMED], f"and {more} more, marked ≈ in the map"]


def _pairs(contrasts: Sequence[Contrast], choices: Choices) -> Table:
    tests = choices.comparison.tests
    label = "" if tests is None else "Holm" if tests.blocks is not None or "Holm" in tests.label else "not adjusted"
    columns = (
        Column("Faster at the median"),
        Column("Against"),
        Column("Ratio of medians", numeric=True, unit="95 % BCa interval"),
        Column("Cliff's delta", numeric=True, unit="band"),
        Column("p", numeric=True, unit=label),
        Column("Claim"),
    )
    claims = {"equivalent": "no difference that matters", "undecided": "left open"}
    rows = tuple(
        (
            Cell(one.first, key=one.first),
            Cell(one.second, key=one.second),
            Cell(f"{one.ratio.value:.3g}", note=f"[{one.ratio.low:.3g}, {one.ratio.high:.3g}]", key=one.ratio.value),
            Cell(f"{round(one.delta.value, 2) + 0.0:+.2f}", note=one.delta.band, key=one.delta.value),
            Cell(p_text(one.p).removeprefix("p\u00a0"), key=one.p),
            Cell(claims.get(one.verdict, one.verdict), key=one.verdict),
        )
        for one in contrasts
    )
    return Table(caption="Every pair of deployments", columns=columns, rows=rows, sortable=True)
