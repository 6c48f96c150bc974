"""The process that trains for this node, as the node sees it: asked over a pipe, and expected to die at any moment."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final, Literal, final

from tierwise._errors import InputError, UnavailableError
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.wire import TrainerAsk, TrainerCharge, TrainerTold, TrainingVerb, read_note, write_note

__all__ = ["Ended", "TrainerProcess"]

_CODES: Final = {"asker": Code.INVALID, "node": Code.UNSUITED, "unknown": Code.INTERNAL}

Told = tuple[TrainerTold, bytes]
Ended = Callable[["TrainerProcess", str, bool], None]


@final
class TrainerProcess:
    """One process; may be asked from several threads. It never outlives the node: its pipe ends with it.

    Args:
        command: What to start.
        charge: What it shall train.
        told: Called with whatever it says, before who asked for it goes on; from a thread of this object.
        ended: Called once when it has ended, with itself, how, and whether the next one would end the same way.

    Attributes:
        ended: Set when it has, before ``ended`` is called.
    """

    def __init__(
        self, command: Sequence[str], charge: TrainerCharge, told: Callable[[TrainerTold], None], ended: Ended
    ) -> None:
        self._told, self._ended = told, ended
        self._mutex, self._numbers = threading.Lock(), itertools.count(1)
        self._waiting: dict[int, Future[Told]] = {}
        self._ready: Future[Told] = Future()
        self.ended = threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(charge.busy,),
            # An interrupt at the terminal is for the node, which lets this process save first.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._tells = self._process.stdin, self._process.stdout
        with contextlib.suppress(OSError):  # the thread finds it dead
            write_note(self._asks, charge)
        threading.Thread(target=self._listen, name="trainer", daemon=True).start()

    def wait_ready(self, timeout_s: float) -> None:
        """Return when it has begun to train.

        Raises:
            RefusalError: It cannot, or not in time.
        """
        self._result(self._ready, timeout_s)

    def ask(
        self,
        verb: TrainingVerb | Literal["batch", "leave"],
        content: bytes = b"",
        step: int | None = None,
        timeout_s: float = 600.0,
    ) -> Told:
        """What it says to ``verb``, and the bytes behind it.

        Raises:
            RefusalError: It refuses, does not answer in time, or has ended.
        """
        answer: Future[Told] = Future()
        with self._mutex:
            number = next(self._numbers)
            self._waiting[number] = answer
            try:
                write_note(self._asks, TrainerAsk(id=number, verb=verb, step=step), content)
            except (OSError, ValueError):  # it has ended, or its pipe was closed here
                self._waiting.pop(number, None)
                raise _gone() from None
        return self._result(answer, timeout_s)

    def end(self, timeout_s: float) -> None:
        """Let it save and go; it is killed where it does not within the time."""
        with contextlib.suppress(RefusalError):
            self.ask("leave", timeout_s=timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()

    def _result(self, answer: Future[Told], timeout_s: float) -> Told:
        try:
            told, content = answer.result(timeout_s)
        except FutureTimeoutError:
            slow = InputError(f"the training process must answer within {timeout_s:g} s", fix="Look at its status")
            raise RefusalError(Code.TOO_LATE, slow) from None
        if told.error:
            raise RefusalError(_CODES[told.fault], told.error)
        return told, content

    def _listen(self) -> None:
        reason, hopeless = "", False
        while True:
            note = read_note(self._tells, TrainerTold)
            if note is None:
                break
            self._told(note[0])
            if note[0].final and note[0].error:
                reason, hopeless = note[0].error, note[0].fault != "unknown"
            if not self._ready.done():
                self._ready.set_result(note)
            with self._mutex:
                waits = self._waiting.pop(note[0].id, None)
            if waits is not None:
                waits.set_result(note)
        status = self._process.wait()
        with self._mutex:
            waiting, self._waiting = list(self._waiting.values()), {}
            for pipe in (self._asks, self._tells):
                with contextlib.suppress(OSError):
                    pipe.close()
        for answer in (self._ready, *waiting):
            if not answer.done():
                answer.set_exception(_gone())
        self.ended.set()
        self._ended(self, reason or f"the training process ended with {status}", hopeless)


def _gone() -> RefusalError:
    error = UnavailableError(
        "the training process must be there",
        got="one that has just ended",
        fix="Ask for the status and go on from there",
    )
    return RefusalError(Code.UNAVAILABLE, error, retry_after_s=1.0)
