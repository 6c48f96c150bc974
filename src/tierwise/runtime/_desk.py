"""The desk: all that can be asked of a node, without a word of any protocol.

Fronts (gRPC, REST) only translate. Each of their requests goes the same way: `Desk.admit`, then one of the desk's
methods, all inside `Desk.refusals`, so that the only exception a front ever meets is `RefusalError`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, final

from tierwise import __version__
from tierwise._clock import Clock
from tierwise._errors import InputError
from tierwise.runtime._call import Answer, Call
from tierwise.runtime._clerks import Clerks, Stay, Told
from tierwise.runtime._guard import Guard, Method, Peer, Principal
from tierwise.runtime._line import Line, Ticket
from tierwise.runtime._memory import give_memory_back
from tierwise.runtime._observer import Answered, Observer, Refused
from tierwise.runtime._refusal import Code, RefusalError, code_of
from tierwise.runtime._repository import Repository
from tierwise.runtime._served import Served
from tierwise.runtime._spec import NodeSpec, Share, read_share
from tierwise.runtime._statistics import ModelStatistics
from tierwise.runtime._training_desk import TrainingDesk
from tierwise.runtime._trainings import Trainings
from tierwise.runtime._visit import Visit
from tierwise.wire import ModelMetadata, ModelStatus, ServerMetadata

__all__ = ["EXTENSIONS", "Desk"]

EXTENSIONS: Final = ("model_repository", "statistics", "tierwise.stages")

# gRPC carries a refusal in a header, which clients accept up to 8 kB.
_LONGEST_TEXT: Final = 2000

# A request of more is decoded by a thread of its own: reading it takes its time, and the others shall not wait for it.
_BRIEF_BYTES: Final = 64 << 10


@final
class Desk:
    """Answers for a node; every method may be called from several threads.

    Args:
        spec: How the node serves.
        repository: Its models.
        line: Where requests wait for their turn.
        clock: The host's clock.
        guard: Who may ask.
        observer: Who is told.
        trainings: What is learnt beside serving; None: nothing.
    """

    def __init__(
        self,
        spec: NodeSpec,
        repository: Repository,
        line: Line,
        clock: Clock,
        guard: Guard,
        observer: Observer,
        trainings: Trainings | None = None,
    ) -> None:
        self.spec, self.clock, self.training = spec, clock, TrainingDesk(trainings)
        self._repository, self._line, self._guard, self._observer = repository, line, guard, observer
        self._door = threading.Condition()
        self._inside, self._closing = 0, False
        self._pool = ThreadPoolExecutor(spec.max_waiting, thread_name_prefix="desk")  # starts threads when needed
        self._clerks = Clerks(line.width, self._end)

    def restore(self) -> dict[str, str]:
        """Serve again what the repository served before; why not, by name, where that fails."""
        failed = self._repository.restore()
        for model in self._repository.models():
            if isinstance(model, Served):
                self._observer.loaded(model.name, model.version, model.load_s)
        return failed

    def close(self) -> None:
        """Let go of the threads; requests under way are answered."""
        self._pool.shutdown(wait=False)
        self._clerks.close()

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Whatever fails in the block leaves it as a `RefusalError` that names this node; the node lives on.

        Raises:
            RefusalError: In place of every `Exception`.
        """
        try:
            yield
        except Exception as error:
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> RefusalError:
        """What the asker is told of an error: what went wrong, on which tier."""
        if isinstance(error, RefusalError) and error.told:
            return error
        code, text = code_of(error), str(error)
        if code is Code.INTERNAL and not isinstance(error, RefusalError):
            self._observer.failed(error)
            text = f"unexpected {type(error).__name__}: {error}"
        retry_after_s = error.retry_after_s if isinstance(error, RefusalError) else None
        return RefusalError(code, f"tier {self.spec.tier}: {text}"[:_LONGEST_TEXT], retry_after_s, told=True)

    def admit(self, peer: Peer, method: Method) -> Principal:
        """Who asks; the first thing a front does with every request, before it decodes it.

        Raises:
            RefusalError: They may not.
        """
        try:
            return self._guard.admit(peer, method)
        except Exception as error:
            refusal = self.refusal(error)
            self._observer.refused(None, Refused(method, "", refusal.code, refusal.text, 0))
            raise refusal from error

    def answer(self, call: Call) -> bytes:
        """Answer a request for inference in the calling thread: wait for a turn, compute, encode.

        Returns:
            What ``call.encode`` made.

        Raises:
            RefusalError: Whatever went wrong.
        """
        self._observer.begun(call)
        stay = Stay(call)
        try:
            try:
                visit = self._open(stay)
                model = stay.model = self._repository.model(call.model, call.version)
                answer = model.answer(call, visit)
                with visit.encoding():
                    body = call.encode(answer)
            finally:
                self._close(stay)
        except Exception as error:
            raise self._lost(stay, error) from error
        self._made(stay, answer, body)
        return body

    def submit(self, call: Call, told: Told) -> None:
        """As `answer`, without waiting: for fronts that must not block.

        Where a request needs little beside its turn to compute, no thread waits with it.

        Args:
            call: The request.
            told: Called once with what `answer` returns or raises: perhaps before this returns, and from whichever
                thread; it must return at once.
        """
        model = self._brief(call)
        if model is None:
            self._pool.submit(self._answer_to, call, told)
            return
        self._observer.begun(call)
        stay = Stay(call, told=told)
        try:
            visit = self._open(stay)
            stay.model = model
            model.begin(call, visit, self._clerks.teller(stay))
        except Exception as error:
            self._close(stay)
            told(self._lost(stay, error))

    def _answer_to(self, call: Call, told: Told) -> None:
        try:
            made: bytes | RefusalError = self.answer(call)
        except RefusalError as refusal:
            made = refusal
        told(made)

    def _brief(self, call: Call) -> Served | None:
        """The model, where it is asked for what can be begun and ended without waiting."""
        plain = call.timeout_s is None and "timeout" not in call.parameters
        if not plain or call.size_bytes > _BRIEF_BYTES or self.spec.pace_frac < 1:
            return None
        try:
            model = self._repository.model(call.model, call.version)
        except RefusalError:  # `answer` tells it
            return None
        return model if isinstance(model, Served) and model.brief else None

    def _end(self, stay: Stay, ticket: Ticket) -> None:
        """The rest of a request that was submitted, when it has its turn or its result."""
        call, model, visit, told = stay.call, stay.model, stay.visit, stay.told
        assert isinstance(model, Served)
        assert visit is not None
        assert told is not None
        try:
            try:
                answer = model.end(ticket, call, visit)
                with visit.encoding():
                    body = call.encode(answer)
            finally:
                self._close(stay)
        except Exception as error:
            told(self._lost(stay, error))
            return
        try:
            self._made(stay, answer, body)
        except Exception as error:  # who waits shall not wait for ever
            told(self.refusal(error))
            return
        told(body)

    def _open(self, stay: Stay) -> Visit:
        """Let a request in, if there is room for it; `_close` must follow whatever comes of it."""
        call = stay.call
        self._check_size(call.size_bytes)
        self._enter(self.spec.max_waiting)
        stay.inside = True
        held = self._guard.held(call.principal)
        held.__enter__()
        stay.held = held
        stay.visit = self._visit(call)
        return stay.visit

    def _close(self, stay: Stay) -> None:
        if stay.held is not None:
            stay.held.__exit__(None, None, None)
        if stay.inside:
            self._leave()

    def _lost(self, stay: Stay, error: Exception) -> RefusalError:
        """What the asker is told of a request that came to nothing, once it is counted."""
        call = stay.call
        refusal, took_ns = self.refusal(error), self.clock.now_ns() - call.received_ns
        if stay.model is not None:
            stay.model.counters.failed(took_ns)
        self._observer.refused(call, Refused("infer", call.model, refusal.code, refusal.text, took_ns))
        return refusal

    def _made(self, stay: Stay, answer: Answer, body: bytes) -> None:
        """Count an answer."""
        call, model, visit, answered_ns = stay.call, stay.model, stay.visit, self.clock.now_ns()
        assert model is not None
        assert visit is not None
        entries = visit.timeline.entries()
        spent = {stage: ns for tier, stage, ns in entries if tier == visit.tier}
        model.counters.answered(max(visit.items, 1), answered_ns - call.received_ns, spent)
        self._observer.answered(
            call,
            Answered(
                model=model.name,
                version=model.version,
                received_ns=call.received_ns,
                answered_ns=answered_ns,
                stages=tuple(entries),
                queue_ns=spent.get("queue", 0),
                batch_size=visit.batch_size,
                bytes_in=call.size_bytes,
                bytes_out=len(body),
                path=answer.account.path,
                exit_frac=answer.account.exit_frac,
                marks=tuple(visit.marks),
            ),
        )

    def _visit(self, call: Call) -> Visit:
        spec, timeout_s, asked_us = self.spec, call.timeout_s, _whole(call, "timeout")
        if asked_us:
            timeout_s = asked_us / 1e6 if timeout_s is None else min(timeout_s, asked_us / 1e6)
        priority = _whole(call, "priority")
        return Visit(spec.tier, self._line, spec.pace_frac, self.clock, timeout_s, call.received_ns, priority)

    def _check_size(self, size_bytes: int) -> None:
        most_bytes = self.spec.max_message_bytes
        if size_bytes > most_bytes:
            large = InputError(
                f"a request must have at most {most_bytes:,} bytes", got=f"{size_bytes:,}", fix="Send fewer items"
            )
            raise RefusalError(Code.TOO_LARGE, large)

    def _enter(self, most: float) -> None:
        with self._door:
            if self._closing:
                raise RefusalError(Code.UNAVAILABLE, InputError("a node that is going away takes no new requests"))
            if self._inside >= most:
                full = InputError(f"at most {self.spec.max_waiting} requests may wait", fix="Ask again later")
                raise RefusalError(Code.EXHAUSTED, full, retry_after_s=1.0)
            self._inside += 1
            self.training.show_busy(self._inside)

    def _leave(self) -> None:
        with self._door:
            self._inside -= 1
            self.training.show_busy(self._inside)
            if self._closing:
                self._door.notify_all()

    def drain(self, grace_s: float) -> bool:
        """Refuse what comes from now on (`ready` says so) and wait for what is under way; whether all of it ended."""
        with self._door:
            self._closing = True
            return self._door.wait_for(lambda: self._inside == 0, grace_s)

    def ready(self) -> bool:
        """Whether requests are answered (a node that is live but going away answers no new ones)."""
        return not self._closing

    def metadata(self) -> ServerMetadata:
        """What the node says about itself."""
        return ServerMetadata("tierwise", __version__, EXTENSIONS)

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether the model can be asked."""
        try:
            self._repository.model(name, version)
        except RefusalError:
            return False
        return self.ready()

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        """What the node says about a model.

        Raises:
            RefusalError: There is none of that name and version.
        """
        with self.refusals():
            told = self._repository.model(name, version).metadata(self.spec.tier)
            return dataclasses.replace(told, versions=self._repository.versions(name) or told.versions)

    def statistics(self, name: str = "", version: str = "") -> tuple[ModelStatistics, ...]:
        """What models have done: of one version, of all versions of a name, or of all models.

        Raises:
            RefusalError: There is none of that name and version.
        """
        with self.refusals():
            return tuple(
                model.counters.statistics(model.name, model.version) for model in self._repository.models(name, version)
            )

    def exposition(self) -> bytes:
        """What was counted and timed, in Prometheus' text format."""
        return self._observer.exposition()

    def index(self, only_ready: bool = False) -> list[ModelStatus]:
        """All models of the repository."""
        return [
            ModelStatus(entry.name, entry.version, "READY" if entry.ready else "UNAVAILABLE", entry.reason)
            for entry in self._repository.index()
            if entry.ready or not only_ready
        ]

    def load(self, name: str, config: bytes | None, files: Mapping[str, bytes | memoryview]) -> None:
        """Serve an artifact as ``name``.

        Args:
            name: The name.
            config: A `Share` as JSON; None: the whole artifact.
            files: The artifact's files by name; empty: what was received under this name before.

        Raises:
            RefusalError: It cannot be served; what was served under the name still is.
        """
        with self.refusals():
            started_ns = self.clock.now_ns()
            self._enter(math.inf)
            try:
                before = self._repository.versions(name)
                version = self._repository.load(name, Share() if config is None else read_share(config), files)
            finally:
                self._leave()
            give_memory_back()
            self._observer.loaded(name, version, (self.clock.now_ns() - started_ns) / 1e9)
            for old in sorted({*before} - {*self._repository.versions(name)}):
                self._observer.unloaded(name, old)
            self.training.follow(name)

    def unload(self, name: str) -> None:
        """Stop serving ``name``; requests under way are answered.

        Raises:
            RefusalError: It is not served, or built in.
        """
        with self.refusals():
            for version in self._repository.unload(name):
                self._observer.unloaded(name, version)
            self.training.follow(name)


def _whole(call: Call, name: str) -> int:
    """A parameter that is a whole number; 0 where the request has none."""
    value = call.parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise InputError("the parameter must be a whole number from 0 on", got=repr(value)[:80], where=name)
    return value
