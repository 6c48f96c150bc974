"""Recommendations as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tierwise._units import format_bytes, format_rate, format_seconds
from tierwise.measure import Interval
from tierwise.planner import (
    Contrast,
    Decision,
    Evidence,
    Figures,
    LinkCheck,
    Recommendation,
    Relaxation,
    Sweep,
    Violation,
)

__all__ = ["recommendation_text", "table_text"]


def recommendation_text(found: Recommendation) -> str:
    """A recommendation, whole."""
    return "\n".join(_lines(found))


def table_text(evidence: Evidence, table: Sequence[Decision]) -> str:
    """The decision table, one line per kind of subject, placement and choice."""
    header = ("kind", "where", "take", "median", "speed-up", "lost", "training", "for")
    rows = [header] + [
        (
            line.kind,
            line.placement,
            line.choice or "-",
            "-" if line.median_s is None else format_seconds(line.median_s),
            "-" if line.speedup is None else f"{line.speedup:.2f}x",
            _points(line.accuracy_lost),
            "-" if line.training_s is None else _long(line.training_s),
            "; ".join(one.need for one in lines),
        )
        for lines in _by_choice(table)
        for line in lines[:1]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    subjects = "; ".join(f"{one.name} ({one.kind}, {one.metric or 'no accuracy'})" for one in evidence.subjects)
    notes = [f"note: {note}" for note in evidence.notes]
    closing = [
        "Point estimates; speed-up and lost are against the baseline, the speed-up on the same placement.",
        "With a constraint or --minimize there are intervals, tests, and what would change the choice.",
    ]
    return "\n".join([f"{evidence.name}: {subjects}", "", *text, "", *closing, *notes])


def _by_choice(table: Sequence[Decision]) -> list[list[Decision]]:
    """Lines of one kind, placement and choice together, since one operator often serves several needs."""
    groups: dict[tuple[str, str, str | None], list[Decision]] = {}
    for line in table:
        groups.setdefault((line.kind, line.placement, line.choice), []).append(line)
    return list(groups.values())


def _lines(found: Recommendation) -> Iterator[str]:
    at = f"p{100 * found.need.at:g}"
    if found.chosen is None:
        yield f"{found.subject}: {found.why}"
        yield from _relaxation_lines(found.relaxations)
    else:
        yield f"{found.subject}: take {found.chosen}"
        yield f"  why        {found.why}"
        yield from _figure_lines(found.of(found.chosen), at)
        yield from _contrast_lines(found)
    yield from _test_lines(found)
    yield from _excluded_lines(found)
    yield from _sweep_lines(found.sweeps)
    yield from _check_lines(found.link_checks)
    for note in found.notes:
        yield f"note: {note}"


def _figure_lines(one: Figures, at: str) -> Iterator[str]:
    if one.latency_s is not None:
        yield f"  latency    {at} {_seconds(one.latency_s)}"
    if one.accuracy is not None:
        lost = "" if one.accuracy_lost is None else f", {_points(one.accuracy_lost)} lost"
        interval = one.accuracy_lost_interval
        if interval is not None:
            lost += f" ({100 * interval.low:.2f} to {100 * interval.high:.2f})"
        yield f"  accuracy   {one.accuracy:.4f}{lost}"
    if one.energy is not None:
        above = one.energy.above_idle_j
        part = "" if above is None else f" ({above:.3g} J above idle)"
        yield f"  energy     {one.energy.joules:.3g} J a request{part}, {one.energy.kind} ({one.energy.source})"
    if one.wire_bytes is not None:
        yield f"  links      {format_bytes(one.wire_bytes)} a request"
    if one.artifact_bytes is not None:
        yield f"  artifact   {format_bytes(one.artifact_bytes)}"
    if one.training_s is not None:
        yield f"  training   {_long(one.training_s)} of CPU"


def _contrast_lines(found: Recommendation) -> Iterator[str]:
    for one in found.tied:
        yield f"tied       {_contrast(one)}"
    if found.runner_up is not None:
        yield f"runner-up  {_contrast(found.runner_up)}"
    elif not found.tied:
        yield "runner-up  none: nothing else fits"
    base = found.against_baseline
    if base is not None and base.second not in {one.second for one in (*found.tied, found.runner_up) if one}:
        yield f"baseline   {_contrast(base)}"


def _contrast(one: Contrast) -> str:
    text = (
        f"{one.second}: latency of {one.first} is {one.ratio.value:.3f} of its "
        f"[{one.ratio.low:.3f}, {one.ratio.high:.3f}], {one.verdict}; {_p(one.p)}; "
        f"Cliff's delta {one.delta.value:+.2f} ({one.delta.band})"
    )
    if one.accuracy is not None:
        answers = one.accuracy
        text += (
            f"; of {answers.items} test items {answers.only_first} right only here and {answers.only_second} "
            f"only there (McNemar {_p(answers.p)})"
        )
    gap = one.accuracy_difference
    if gap is not None and gap.low < gap.high:
        text += f", {100 * gap.value:+.2f} pp [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
    if one.accuracy_p is not None:
        text += f"; accuracies by Wilcoxon {_p(one.accuracy_p)} (as published)"
    return text


def _test_lines(found: Recommendation) -> Iterator[str]:
    tests = found.tests
    if tests is None:
        return
    blocks = "" if tests.blocks is None else f", {tests.blocks} blocks"
    dropped = f" ({tests.dropped} incomplete ones left out)" if tests.dropped else ""
    yield f"test       {tests.label}: chi-square {tests.statistic:.1f}, {_p(tests.p)}{blocks}{dropped}"
    yield f"           ratios: 95 % BCa bootstrap intervals that resample {tests.resampled}"


def _excluded_lines(found: Recommendation) -> Iterator[str]:
    for one in found.excluded:
        yield f"excluded   {one.id}: {'; '.join(_violation(each) for each in one.violations)}"


def _violation(one: Violation) -> str:
    return f"{one.constraint} ({one.text}{', not certain' if one.uncertain else ''})"


def _relaxation_lines(relaxations: Sequence[Relaxation]) -> Iterator[str]:
    for position, one in enumerate(relaxations):
        said = "; ".join(f"{each.constraint} by {_by(each)} ({each.text})" for each in one.violations)
        yield f"  {'nearest   ' if position == 0 else 'or relax  '} {one.id}: relax {said}"


def _by(one: Violation) -> str:
    more = 0.0 if one.got is None else one.got - one.asked
    match one.constraint:
        case "max-latency":
            return format_seconds(more)
        case "max-training-cost":
            return _long(more)
        case "max-accuracy-drop":
            return f"{100 * more:.2f} pp"
        case "max-energy":
            return f"{more:.3g} J"
        case "tiers":
            return f"{more:g} more"
        case _:
            return format_bytes(more)


def _sweep_lines(sweeps: Sequence[Sweep]) -> Iterator[str]:
    names = {"rate": "rate of", "rtt": "round trip of", "input": "size of the input"}
    for one in sweeps:
        show = {"bit/s": format_rate, "s": format_seconds, "B": format_bytes}[one.unit]
        what = f"{names[one.axis]} {one.link}".rstrip()
        now = f"what if    {what} (now {show(one.now)})"
        span = f"{show(one.regions[0].low)} to {show(one.regions[-1].high)}"
        if not one.changes:
            yield f"{now}: {_winner(one.regions[0].winner)} throughout {span}"
        else:
            steps = [_winner(one.regions[0].winner)]
            steps += [f"from {show(region.low)} {_winner(region.winner)}" for region in one.regions[1:]]
            yield f"{now}: {', '.join(steps)} ({span})"


def _winner(id: str | None) -> str:
    return "nothing fits" if id is None else id


def _check_lines(checks: Sequence[LinkCheck]) -> Iterator[str]:
    """Per link how far the model is off, over its cells; each cell is in the JSON."""
    for link in dict.fromkeys((one.lower, one.upper) for one in checks):
        own = [one for one in checks if (one.lower, one.upper) == link]
        text = f"link model {link[0]} - {link[1]}: off by {_errors([one.error_frac for one in own])}"
        held = [one.held_out_error_frac for one in own if one.held_out_error_frac is not None]
        if held:
            text += f"; with the overhead learnt from the other cells by {_errors(held)}"
        yield f"{text} ({len(own)} measured cells, none used to fit)"


def _errors(fracs: Sequence[float]) -> str:
    return f"{100 * min(fracs):+.1f} to {100 * max(fracs):+.1f} %"


def _seconds(interval: Interval) -> str:
    return f"{format_seconds(interval.value)} [{format_seconds(interval.low)}, {format_seconds(interval.high)}]"


def _long(seconds: float) -> str:
    """Training takes milliseconds or days."""
    if seconds < 120:
        return format_seconds(seconds)
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _points(frac: float | None) -> str:
    return "-" if frac is None else f"{100 * frac + 0.0:.2f} pp"


def _p(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"
