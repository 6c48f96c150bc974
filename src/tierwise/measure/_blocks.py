"""The order of requests: randomised complete blocks, from named random streams, known before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.measure._scenario import Offline, Scenario, Server, SingleStream

__all__ = ["Block", "Query", "plan_round"]


@final
@dataclass(frozen=True)
class Query:
    """One request to come.

    Attributes:
        number: Its number inside the round; with round, session and strategy it names the record.
        sample: Index of its input among the loaded ones.
        due_s: When it is due after the start of its run (Server); 0 elsewhere.
    """

    number: int
    sample: int
    due_s: float = 0.0


@final
@dataclass(frozen=True)
class Block:
    """What is measured without interruption and written together.

    Attributes:
        round: The pass it belongs to.
        order: Strategies in the order of their turns.
        queries: What each of them answers at its turn.
    """

    round: int
    order: tuple[str, ...]
    queries: tuple[Query, ...]


def plan_round(
    scenario: Scenario, strategies: Sequence[str], *, samples: int, seed: int, session: int, round: int
) -> tuple[Block, ...]:
    """The blocks of one round, in the order they are run.

    SingleStream: one block per input, the inputs in random order; inside a block all strategies in random order. Server
    and Offline: one block per strategy, in random order; all strategies get the same inputs (drawn with replacement) at
    the same arrival times, so that they can be compared pair by pair.

    Order, inputs and arrivals come from streams of their own: a change of the arrival rate leaves the order as it was.

    Args:
        scenario: What kind of load.
        strategies: Names; all of them are in every round.
        samples: Number of loaded inputs.
        seed: Root of the streams.
        session: Number of the process restart.
        round: Number of the round in it.

    Raises:
        InputError: No strategy, a name twice, or no input.
    """
    if not strategies or len(set(strategies)) != len(strategies) or samples < 1:
        raise InputError(
            "a round needs strategies with unique names and one input at least",
            got=f"{list(strategies)} and {samples} inputs",
        )
    order = stream(seed, "order", session, round)
    inputs = stream(seed, "samples", session, round)
    match scenario:
        case SingleStream():
            return tuple(
                Block(round, _shuffled(strategies, order), (Query(number, int(sample)),))
                for number, sample in enumerate(inputs.permutation(samples))
            )
        case Server(rate_per_s=rate, queries=count):
            gaps = stream(seed, "arrivals", session, round).exponential(1 / rate, count)
            due = np.cumsum(gaps)
        case Offline(queries=count):
            due = np.zeros(count)
    drawn = inputs.integers(0, samples, count)
    queries = tuple(Query(number, int(drawn[number]), float(due[number])) for number in range(count))
    return tuple(Block(round, (name,), queries) for name in _shuffled(strategies, order))


def _shuffled(names: Sequence[str], generator: np.random.Generator) -> tuple[str, ...]:
    return tuple(names[int(i)] for i in generator.permutation(len(names)))
