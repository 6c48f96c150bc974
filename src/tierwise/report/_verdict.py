"""What the figures say, in a few sentences. Every word is computed; nothing is said that the records do not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from tierwise._units import format_frac, format_seconds
from tierwise.measure import Estimate, quantile
from tierwise.report._rows import MAX_ERROR_FRAC, DecisionRow, estimate_text
from tierwise.study import StudyData

__all__ = ["Words", "best_rows", "paired_difference", "verdict"]


@final
@dataclass(frozen=True)
class Words:
    """A piece of a sentence.

    Attributes:
        text: As plain text.
        strong: Whether it is to stand out: a strategy's name.
    """

    text: str
    strong: bool = False


Sentence = tuple[Words, ...]


def verdict(data: StudyData, rows: Sequence[DecisionRow]) -> tuple[Sentence, ...]:
    """Two to four sentences: the fastest, the fastest that loses no accuracy, what the runner-up costs, what failed."""
    fit = [row for row in rows if row.eligible]
    failing = [row for row in rows if row.requests and not row.eligible]
    if not fit:
        why = "every strategy failed too often" if failing else "nothing has been measured yet"
        return ((Words(f"There is no verdict: {why}."),),)
    fastest = fit[0]
    keeping = [row for row in fit if row.keeps_accuracy]
    choice = keeping[0] if keeping else fastest
    said = [_first(fastest)]
    if choice is not fastest:
        said.append(_second(choice, fastest))
    elif not keeping and fastest.accuracy:
        said.append((Words("No strategy that answers reliably keeps the accuracy of the unchanged model."),))
    others = [row for row in (keeping or fit) if row not in (choice, fastest)] or [row for row in fit if row != choice]
    if others:
        said.append(_runner_up(data, choice, others[0]))
    if failing:
        said.append(_failures(failing))
    return tuple(said)


def best_rows(data: StudyData, rows: Sequence[DecisionRow]) -> tuple[DecisionRow, ...]:
    """The best of each reach, in the order of the topology's tiers."""
    order = {tier.name: index for index, tier in enumerate(data.topology.tiers)}
    return tuple(sorted((row for row in rows if row.best_of_reach), key=lambda row: order.get(row.reach, len(order))))


def paired_difference(data: StudyData, slow: str, fast: str) -> tuple[Estimate, int] | None:
    """Median of (slow - fast) over requests for the same input in the same round, with its 95 % interval.

    Pairing takes out what both share: the input, and the state of the machine at that moment.

    Returns:
        The estimate and the number of pairs; None where there are fewer than six (no interval exists below).
    """
    times: dict[str, dict[tuple[int, int, int, int], float]] = {slow: {}, fast: {}}
    for record in data.records:
        if record.strategy in times and record.error is None and not record.cold:
            key = (record.session, record.attempt, record.round, record.sample)
            times[record.strategy][key] = record.latency_s
    both = times[slow].keys() & times[fast].keys()
    if len(both) < 6:
        return None
    return quantile(np.sort([times[slow][key] - times[fast][key] for key in both]), 0.5), len(both)


def _first(row: DecisionRow) -> Sentence:
    assert row.p50 is not None  # eligible rows have one
    text = f" answers fastest: half of its requests were back within {estimate_text(row.p50)}"
    if row.accuracy is None:
        return (Words(row.strategy, strong=True), Words(f"{text}. Its accuracy was not measured."))
    figure = f"{format_frac(row.accuracy.value)} {row.metric} on {row.accuracy_items} {row.accuracy_split} items"
    if row.keeps_accuracy:
        return (Words(row.strategy, strong=True), Words(f"{text}, and it loses no accuracy ({figure})."))
    return (Words(row.strategy, strong=True), Words(f"{text}, at {figure}."))


def _second(choice: DecisionRow, fastest: DecisionRow) -> Sentence:
    assert choice.p50 is not None
    assert choice.accuracy is not None
    start = (
        Words("The fastest that loses no accuracy is "),
        Words(choice.strategy, strong=True),
        Words(f" with {estimate_text(choice.p50)} and {format_frac(choice.accuracy.value)}"),
    )
    if fastest.loss_frac is None or fastest.accuracy is None:
        return (*start, Words("."))
    text = f"; the fastest gives up {_points(fastest.loss_frac)} for its speed"
    high = fastest.accuracy.high
    if high is not None:
        within = high >= fastest.accuracy.value + fastest.loss_frac
        items = f"{fastest.accuracy_items} items"
        text += f", which {items} cannot tell apart" if within else f", more than the interval of {items} allows for"
    return (*start, Words(f"{text}."))


def _runner_up(data: StudyData, choice: DecisionRow, other: DecisionRow) -> Sentence:
    assert choice.p50 is not None
    assert other.p50 is not None
    name = Words(other.strategy, strong=True)
    start = Words("The runner-up, " if other.p50.value_s >= choice.p50.value_s else "Ahead of it, ")
    pair = paired_difference(data, other.strategy, choice.strategy) if _paired(data) else None
    accuracy = _accuracy_gap(choice, other)
    if pair is None:
        gap = _signed(other.p50.value_s - choice.p50.value_s)
        return (start, name, Words(f", differs by {gap} at the median{accuracy}."))
    seen, pairs = pair
    interval = f"[{_signed(seen.low_s)}, {_signed(seen.high_s)}] over {pairs} paired requests"
    if seen.low_s is not None and seen.high_s is not None and seen.low_s <= 0 <= seen.high_s:
        return (start, name, Words(f", cannot be told apart from it: {_signed(seen.value_s)} {interval}{accuracy}."))
    verb = "costs" if seen.value_s > 0 else "saves"
    amount = (
        f"{format_seconds(abs(seen.value_s))} a request against it ({100 * seen.value_s / choice.p50.value_s:+.0f} %)"
    )
    return (start, name, Words(f", {verb} {amount}: {interval}{accuracy}."))


def _paired(data: StudyData) -> bool:
    # Only there do all strategies answer one input in turn; arrivals of the other scenarios are not paired.
    return data.campaign.scenario.TAG == "single-stream"


def _accuracy_gap(choice: DecisionRow, other: DecisionRow) -> str:
    if choice.accuracy is None or other.accuracy is None:
        return ""
    gap = other.accuracy.value - choice.accuracy.value
    if abs(gap) < 1e-9:
        return ", at the same accuracy"
    return f", with {_points(abs(gap))} {'more' if gap > 0 else 'less'} accuracy"


def _failures(failing: Sequence[DecisionRow]) -> Sentence:
    parts = [Words(f"Left out of this verdict for failing more than {100 * MAX_ERROR_FRAC:g} % of requests: ")]
    for index, row in enumerate(failing):
        parts += [Words(row.strategy, strong=True), Words(f" ({row.errors} of {row.requests})")]
        parts.append(Words("." if index == len(failing) - 1 else ", "))
    return tuple(parts)


def _points(frac: float) -> str:
    return f"{100 * frac:.2g} points"


def _signed(seconds: float | None) -> str:
    if seconds is None:
        return "open"
    return ("+" if seconds > 0 else "") + format_seconds(seconds)
