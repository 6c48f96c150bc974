"""From a table and a budget to a scheme whose captured step keeps the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import msgspec

from tierwise._errors import InputError
from tierwise._units import format_bytes, format_seconds
from tierwise.training._scheme import Scheme
from tierwise.training._whole_file import write_whole
from tierwise.training.compiler import Prediction
from tierwise.training.search._evolution import Evolution, search_evolving
from tierwise.training.search._exact import search_exactly
from tierwise.training.search._table import Budget, Choice, Table

__all__ = ["ROUNDS", "Found", "Outcome", "ask_less", "check_budget", "found_in", "search_scheme", "write_scheme"]

ROUNDS = 50
"""Searches at most, each asked for less than the one before."""


@final
@dataclass(frozen=True)
class Found:
    """A scheme, with what the table says of it and what its captured graph does.

    Attributes:
        scheme: For the compiler.
        gain: Accuracy over the classifier alone, taken to add up.
        table_bytes: By the table.
        captured_bytes: By the liveness of the captured step.
        cpu_s: By the table; 0 where nothing was timed.
    """

    scheme: Scheme
    gain: float
    table_bytes: int
    captured_bytes: int
    cpu_s: float


@final
@dataclass(frozen=True)
class Outcome:
    """Both searches on one table under one budget.

    Attributes:
        exact: The best there is in the table.
        evolved: What evolution found.
        withheld_bytes: By how much the table's budget was lowered until the captured step kept the budget asked for.
    """

    exact: Found
    evolved: Found
    withheld_bytes: int

    @property
    def gap(self) -> float:
        """By how much accuracy evolution stays behind."""
        return self.exact.gain - self.evolved.gain


def check_budget(table: Table, budget: Budget) -> None:
    """Refuse what leaves no scheme, before anything slow.

    Raises:
        InputError: Not even training the classifier alone is within the budget.
    """
    if not any(table.fits(Choice(depth), budget) for depth in range(len(table.depths))):
        raise _too_small(table, budget)


def search_scheme(
    table: Table, budget: Budget, predict: Callable[[Scheme], Prediction], how: Evolution | None = None
) -> Outcome:
    """Both searches; where a captured step is over the budget, less is asked of the table and they begin again.

    Args:
        table: Gains and costs.
        budget: Bytes and CPU time of a step.
        predict: Captures the step of a scheme.
        how: Evolution.

    Raises:
        InputError: Not even training the classifier alone is within the budget.
    """
    asked, least = budget, min(table.bytes(Choice(depth)) for depth in range(len(table.depths)))
    for _ in range(ROUNDS):
        chosen, evolved = search_exactly(table, asked), search_evolving(table, asked, how)
        if chosen is None or evolved is None:
            break
        pair = [found_in(table, one, predict) for one in (chosen, evolved)]
        over = max(one.captured_bytes for one in pair) - budget.bytes
        if over <= 0:
            return Outcome(pair[0], pair[1], budget.bytes - asked.bytes)
        asked = ask_less(asked, over, least)
    raise _too_small(table, budget)


def ask_less(asked: Budget, over: int, least: int) -> Budget:
    """What to ask of the table next, after a captured step of ``asked`` was ``over`` the true budget (bytes).

    A quarter at most of what is above ``least``: where a table is far off, all of it would leave the classifier alone.
    """
    return msgspec.structs.replace(asked, bytes=asked.bytes - max(1, min(over, (asked.bytes - least) // 4)))


def found_in(table: Table, choice: Choice, predict: Callable[[Scheme], Prediction]) -> Found:
    """A choice, with what the table says of it and what its captured graph does."""
    scheme = table.scheme(choice)
    return Found(scheme, table.gain(choice), table.bytes(choice), predict(scheme).bytes, table.cpu_s(choice))


def _too_small(table: Table, budget: Budget) -> InputError:
    least = min(table.bytes(Choice(depth)) for depth in range(len(table.depths)))
    if least <= budget.bytes and budget.cpu_s is not None:
        fastest = min(table.cpu_s(Choice(depth)) for depth in range(len(table.depths)))
        if fastest > budget.cpu_s:
            return InputError(
                "a step that trains the classifier alone must be within the budget of time",
                got=f"{format_seconds(fastest)} of {format_seconds(budget.cpu_s)}",
                where="--seconds",
                fix="Give more time, or smaller batches",
            )
    return InputError(
        "a step that trains the classifier alone must be within the budget of memory",
        got=f"{format_bytes(least)} of {format_bytes(budget.bytes)}",
        where="--memory",
        fix="Give more memory, smaller batches, or an optimiser with less state",
    )


def write_scheme(path: Path, scheme: Scheme, notes: tuple[str, ...] = ()) -> None:
    """A TOML file that ``tierwise train compile --scheme`` takes.

    Args:
        path: The file, ending in ``.toml``.
        scheme: What is trained, in layers.
        notes: Lines of comment at its head.
    """
    lines = [f"# {note}" for note in notes]
    lines += [f"biases = {_plain(scheme.biases)}", f"whole = {_plain(scheme.whole)}"]
    if scheme.weights:
        lines += ["", "[weights]"]
        lines += [f"{_plain(layer)} = {float(ratio)}" for layer, ratio in scheme.weights.items()]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _plain(value: int | str) -> str:
    return msgspec.json.encode(value).decode()  # numbers and quoted strings are the same in TOML
