"""Putting load on systems and writing down what comes back. A failing system makes records, never exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._clock import Clock
from tierwise.measure._blocks import Block, Query
from tierwise.measure._metered import Wattmeter
from tierwise.measure._record import Record, Reply, SystemUnderTest
from tierwise.measure._scenario import Offline, Scenario, Server, SingleStream

__all__ = ["Turn", "class_of", "run_block", "run_cold"]


@final
class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What all records of a piece of work have in common.

    Attributes:
        session: Number of the process restart.
        attempt: How often it had been opened before.
        labels: Class of every loaded input, where it is known.
    """

    session: int
    attempt: int = 0
    labels: tuple[int, ...] | None = None


def run_block(
    block: Block,
    systems: Mapping[str, SystemUnderTest],
    scenario: Scenario,
    clock: Clock,
    turn: Turn,
    wattmeter: Wattmeter | None = None,
) -> tuple[Record, ...]:
    """Measure one block.

    Args:
        block: What is asked of whom (`tierwise.measure.plan_round`).
        systems: By name; those of ``block.order`` at least.
        scenario: How the requests of one turn follow each other.
        clock: Times and waits.
        turn: What goes into every record.
        wattmeter: Read before and after every strategy's turn, outside of what is timed; None: there is no meter.

    Returns:
        One record per strategy and query, in the order of the strategies' turns, then of the queries.
    """
    records: list[Record] = []
    for name in block.order:
        reading = None if wattmeter is None else wattmeter.start()
        own = _run_turn(systems[name], scenario, block, clock, turn)
        if wattmeter is not None and reading is not None:
            own = wattmeter.share(own, reading.stop())
        records += own
    return tuple(records)


def _run_turn(system: SystemUnderTest, scenario: Scenario, block: Block, clock: Clock, turn: Turn) -> Sequence[Record]:
    match scenario:
        case SingleStream():
            return [
                _issue(system, scenario.TAG, block.round, query, clock.now_ns(), clock, turn) for query in block.queries
            ]
        case Server() | Offline():
            return _run_open(system, scenario, block, clock, turn)


def run_cold(
    system: SystemUnderTest, scenario: Scenario, number: int, sample: int, load_s: float, clock: Clock, turn: Turn
) -> Record:
    """Measure the first request after loading; the caller has just loaded the system.

    Args:
        system: Freshly loaded.
        scenario: What the record is filed under (a cold request stands alone in all of them).
        number: Which cold start of the session.
        sample: Index of the input.
        load_s: Seconds of session creation, summed over tiers.
        clock: Times the request.
        turn: What goes into the record.
    """
    record = _issue(system, scenario.TAG, number, Query(0, sample), clock.now_ns(), clock, turn)
    return msgspec.structs.replace(record, cold=True, load_s=load_s)


def _run_open(
    system: SystemUnderTest, scenario: Server | Offline, block: Block, clock: Clock, turn: Turn
) -> Sequence[Record]:
    """Issue each query when it is due, whether or not the ones before are answered."""
    with ThreadPoolExecutor(scenario.outstanding, thread_name_prefix="tierwise-load") as pool:
        start_ns = clock.now_ns()
        pending = []
        for query in block.queries:
            due_ns = start_ns + round(1e9 * query.due_s)
            clock.sleep((due_ns - clock.now_ns()) / 1e9)
            pending.append(pool.submit(_issue, system, scenario.TAG, block.round, query, due_ns, clock, turn))
        return [future.result() for future in pending]


def _issue(
    system: SystemUnderTest, tag: str, round: int, query: Query, due_ns: int, clock: Clock, turn: Turn
) -> Record:
    reply, error = Reply({}), None
    try:
        reply = system.issue(query.sample)
    except Exception as failure:  # whatever a system raises is a finding about that system
        error = f"{type(failure).__name__}: {failure}"
    latency_s = (clock.now_ns() - due_ns) / 1e9
    first = next(iter(reply.outputs.values()), None)
    prediction = None if first is None else class_of(first)
    label = None if turn.labels is None else turn.labels[query.sample]
    return Record(
        strategy=system.name,
        scenario=tag,
        session=turn.session,
        round=round,
        query=query.number,
        sample=query.sample,
        cold=False,
        started_ns=due_ns,
        latency_s=latency_s,
        stages=reply.stages,
        bytes_up=reply.bytes_up,
        bytes_down=reply.bytes_down,
        prediction=prediction,
        correct=None if prediction is None or label is None else prediction == label,
        exit_frac=reply.exit_frac,
        error=error,
        attempt=turn.attempt,
    )


def class_of(output: npt.NDArray[Any]) -> int | None:
    """Class of the one item in a batch of one: the index of the largest score; None where these are no scores.

    Args:
        output: [1, classes] of numbers; anything else is no scores.
    """
    if output.ndim != 2 or output.shape[0] != 1 or not np.issubdtype(output.dtype, np.number):
        return None
    return int(output[0].argmax())
