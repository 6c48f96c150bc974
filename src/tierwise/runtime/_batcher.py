"""Computes the requests of one model, several at once where that pays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Final, final

import numpy as np

from tierwise._errors import InputError, TierwiseError
from tierwise.artifact import TensorSpec
from tierwise.runtime._call import Tensors
from tierwise.runtime._curve import Curve
from tierwise.runtime._executor import Executor
from tierwise.runtime._line import LAST, Line, Ticket
from tierwise.runtime._passage import Passage, split
from tierwise.runtime._spec import Batching
from tierwise.runtime._statistics import Counters
from tierwise.runtime._visit import Visit

__all__ = ["Batcher"]

_WEIGHT: Final = 0.1
_RUNS: Final = 3


@final
class Batcher:
    """Runs one model's requests in their turns.

    Without a `Batching` every request computes alone. With one, the request that gets a turn takes others of its kind
    with it (same tensors, types and axes but the batch): as many as `Curve.choose` finds best, within the budget. It
    waits for more only where nothing else waits, the gap to the next request, by the observed rate, is shorter than
    `Curve.patience_ns`, and the budget of the request that has waited longest allows it. A request that comes alone
    finds no rate that would justify a wait, and is computed at once.

    The curve is measured in the background when the model is first asked, on copies of that request's items, at the
    end of the line, within ``Batching.measure_s``; until then requests compute alone. It is kept up to date by all
    that is computed.

    Args:
        executor: What computes.
        prepare: From a request's tensors to the executor's inputs, the stage ``preprocess``; None where nothing is.
        stage: Name of the executor's stage.
        batching: How to batch; None: not at all.
        outputs: The model's outputs, for items that leave at an exit.
        priority: Place in the line of requests that do not say theirs.
        counters: Told of every execution.
        line: Where requests wait.
    """

    def __init__(
        self,
        executor: Executor,
        prepare: Callable[[Tensors], Tensors] | None,
        stage: str,
        batching: Batching | None,
        outputs: tuple[TensorSpec, ...],
        priority: int,
        counters: Counters,
        line: Line,
    ) -> None:
        self._executor, self._prepare, self._stage = executor, prepare, stage
        self._priority, self._counters, self._line = priority, counters, line
        # Only a model whose inputs and results all begin with the batch axis can be asked for several at once.
        whole = (*executor.inputs, *executor.outputs, *outputs)
        free = all(spec.shape[:1] == (-1,) for spec in whole)
        self._batching = batching if free else None
        self._most = self._batching.most_items if self._batching else 1
        self._budget_ns = self._batching.budget_s * 1e9 if self._batching else 0.0
        self.curve = Curve()
        self._mutex = threading.Lock()
        self._measured = self._batching is None
        self._arrived_ns = 0
        self._gap_ns = 0.0
        self._warm = False

    def compute(self, tensors: Tensors, visit: Visit) -> Passage:
        """A request's tensors through the model, in its turn.

        Raises:
            RefusalError: Its deadline cannot be met or passed.
            InputError: The tensors do not fit the model.
            TierwiseError: The model failed.
        """
        ticket = self._ticket(tensors, visit)
        return self._turn(ticket, visit) if self._line.enter(ticket) else self._given(ticket, visit)

    def submit(self, tensors: Tensors, visit: Visit, told: Callable[[Ticket], None]) -> None:
        """As `compute`, without waiting: when ``told`` was called, `result` has the rest to do.

        Args:
            tensors: The request's.
            visit: The request; its client must have named no deadline.
            told: Called once with the request's ticket, perhaps before this returns, from whichever thread; it must
                return at once.
        """
        ticket = self._ticket(tensors, visit)
        ticket.told = told
        self._line.join(ticket)

    def result(self, ticket: Ticket, visit: Visit) -> Passage:
        """What comes of a request that was submitted, computed here if it is its turn; raises as `compute`."""
        return self._turn(ticket, visit) if ticket.leads else self._given(ticket, visit)

    def _ticket(self, tensors: Tensors, visit: Visit) -> Ticket:
        ticket = visit.ticket(
            items=_items(tensors), key=self._key(tensors), curve=self.curve, load=tensors, priority=self._priority
        )
        ticket.most, ticket.budget_ns = self._most, self._budget_ns
        visit.items = ticket.items
        if ticket.key is not None:
            self._note_arrival(visit.now_ns())
        return ticket

    def _turn(self, ticket: Ticket, visit: Visit) -> Passage:
        try:
            others = [] if ticket.key is None else self._companions(ticket, visit)
            visit.queued(ticket.joined_ns)
            passage = self._lead(ticket, others, visit)
        finally:
            self._line.leave(ticket)
        if not self._measured and ticket.key is not None:
            self._measure_once(ticket.load)
        return passage

    def _key(self, tensors: Tensors) -> Hashable:
        if self._batching is None or not tensors:
            return None
        if any(array.ndim == 0 for array in tensors.values()):
            return None
        axes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(tensors.items()))
        return None if len({len(array) for array in tensors.values()}) > 1 else (id(self), axes)

    def _note_arrival(self, now_ns: int) -> None:
        with self._mutex:
            gap_ns = now_ns - self._arrived_ns
            if not self._arrived_ns or 0 < 100 * self._gap_ns < gap_ns:
                self._gap_ns = 0.0  # the first, or the first after a pause: the rate is not known
            elif self._gap_ns:
                self._gap_ns += _WEIGHT * (gap_ns - self._gap_ns)
            else:
                self._gap_ns = float(gap_ns)
            self._arrived_ns = now_ns

    def _companions(self, leader: Ticket, visit: Visit) -> list[Ticket]:
        while True:
            waiting, others_wait, joined = self._line.crowd(leader.key)
            together = leader.items + waiting
            size = self.curve.choose(together, self._most, self._budget_ns)
            now_ns = visit.now_ns()
            patience_ns = self.curve.patience_ns(together)
            left_ns = leader.joined_ns + self._budget_ns - self.curve.ns(together + 1) - now_ns
            wait_ns = min(patience_ns - (now_ns - self._arrived_ns), left_ns)
            enough = size < together or together >= self._most or others_wait
            if enough or wait_ns <= 0 or not 0 < self._gap_ns < patience_ns:
                return self._line.take(leader, max(size, leader.items)) if waiting else []
            if not self._line.wait_for_more(leader, joined, wait_ns):
                return self._line.take(leader, size)

    def _lead(self, leader: Ticket, others: list[Ticket], visit: Visit) -> Passage:
        if not others:
            passage, _ = self._run(leader.load, leader.items, visit)
            visit.batch_size = leader.items
            return passage
        members, results, begun_ns = [leader, *others], [], visit.now_ns()
        try:
            results = self._together(members, begun_ns, visit)
        except TierwiseError:
            # One of them is at fault; each gets its own answer.
            results = [self._apart(ticket, begun_ns, visit) for ticket in members]
        finally:
            broken = _Given(None, TierwiseError("the batch that this request was part of must be computed"), begun_ns)
            for ticket, result in zip(others, results[1:] or [broken] * len(others), strict=True):
                self._line.finish(ticket, result)
        visit.batch_size = results[0].batch_size
        return results[0].passage_or_error()

    def _together(self, members: list[Ticket], begun_ns: int, visit: Visit) -> list[_Given]:
        sizes = [ticket.items for ticket in members]
        joined = {name: np.concatenate([ticket.load[name] for ticket in members]) for name in members[0].load}
        passage, spent = self._run(joined, sum(sizes), visit)
        parts = split(passage, sizes)
        return [_Given(part, None, begun_ns, spent, sum(sizes)) for part in parts]

    def _apart(self, ticket: Ticket, begun_ns: int, visit: Visit) -> _Given:
        try:
            passage, spent = self._run(ticket.load, ticket.items, visit)
        except TierwiseError as error:
            return _Given(None, error, begun_ns)
        return _Given(passage, None, begun_ns, spent, ticket.items)

    def _run(self, tensors: Tensors, items: int, visit: Visit) -> tuple[Passage, dict[str, int]]:
        """The passage and nanoseconds by stage."""
        spent, started_ns = {}, visit.now_ns()
        if self._prepare is not None:
            with visit.computing("preprocess"):
                tensors = self._prepare(tensors)
            spent["preprocess"] = visit.now_ns() - started_ns
        begun_ns = visit.now_ns()
        with visit.computing(self._stage):
            passage = self._executor.advance(tensors)
        ended_ns = visit.now_ns()
        spent[self._stage] = ended_ns - begun_ns
        # The first run of a session is slower than all others.
        if self._warm:
            self.curve.learn(items, ended_ns - started_ns)
        self._warm = True
        self._counters.executed(items, spent)
        return passage, spent

    def _given(self, ticket: Ticket, visit: Visit) -> Passage:
        given: _Given = ticket.result
        visit.timeline.add(visit.tier, "queue", given.begun_ns - ticket.joined_ns)
        visit.marks.append(("queue", ticket.joined_ns, given.begun_ns))
        at_ns = given.begun_ns
        for stage, ns in given.spent.items():
            visit.timeline.add(visit.tier, stage, ns)
            visit.marks.append((stage, at_ns, at_ns + ns))
            at_ns += ns
        visit.batch_size = given.batch_size
        return given.passage_or_error()

    def _measure_once(self, tensors: Tensors) -> None:
        with self._mutex:
            if self._measured:
                return
            self._measured = True
        threading.Thread(target=self._measure, args=(tensors,), name="curve", daemon=True).start()

    def _measure(self, tensors: Tensors) -> None:
        assert self._batching is not None
        left_ns, size = self._batching.measure_s * 1e9, 1
        one = {name: array[:1] for name, array in tensors.items()}
        while size <= self._most and self.curve.ns(size) * _RUNS <= left_ns:
            batch = {name: np.repeat(array, size, axis=0) for name, array in one.items()}
            for run in range(_RUNS):
                try:
                    ns = self._measure_run(batch)
                except (InputError, TierwiseError):
                    return  # the model takes no batch of this size; those it takes are known
                left_ns -= ns
                if run > 0:  # new shapes are slower once
                    self.curve.learn(size, ns)
            size *= 2

    def _measure_run(self, batch: Tensors) -> int:
        ticket = Ticket(priority=LAST, curve=self.curve, items=_items(batch))
        with self._line.turn(ticket):
            started_ns = self._line.now_ns()
            self._executor.advance(batch if self._prepare is None else self._prepare(batch))
            return self._line.now_ns() - started_ns


@final
class _Given:
    """What a leader hands to those it took with it: a passage or an error, and the time it took."""

    def __init__(
        self,
        passage: Passage | None,
        error: TierwiseError | None,
        begun_ns: int,
        spent: dict[str, int] | None = None,
        batch_size: int = 0,
    ) -> None:
        self._passage, self._error = passage, error
        self.begun_ns, self.spent, self.batch_size = begun_ns, spent or {}, batch_size

    def passage_or_error(self) -> Passage:
        if self._error is not None:
            raise self._error
        assert self._passage is not None
        return self._passage


def _items(tensors: Tensors) -> int:
    return next((len(array) for array in tensors.values() if array.ndim), 1)
