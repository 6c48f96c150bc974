"""The training of one served model: its process, started again when it dies, and what it hands over to serving."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, final

import msgspec

from tierwise._config import Spec
from tierwise._errors import ArtifactError, InputError, TierwiseError
from tierwise.runtime._learnt import read_learnt
from tierwise.runtime._log import EventLog
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._served import Served
from tierwise.runtime._trainer_process import Told, TrainerProcess
from tierwise.wire import (
    CHECKPOINT,
    WEIGHTS,
    TrainerCharge,
    TrainerTold,
    TrainingOrder,
    TrainingProgress,
    TrainingState,
    TrainingStatus,
    TrainingVerb,
)

__all__ = ["Training", "TrainingRecord", "read_record"]

_RECORD: Final = "order.json"
# Starts without a single new step, after which it is no accident any more.
_MOST_TRIES: Final = 8
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 10.0
# Batches of clients that wait for their step; each holds a thread of the node.
_MOST_BATCHES: Final = 4
_BEGIN_S: Final = 300.0
_STOP_S: Final = 60.0


@final
class TrainingRecord(Spec, frozen=True, kw_only=True):
    """What is on disk about a training, so that a node which was killed goes on with it.

    Attributes:
        order: How it was asked to train.
        items: Folder of pictures; None: batches are sent.
        state: ``running`` is begun again.
        reason: Why it failed.
    """

    order: TrainingOrder
    items: str | None
    state: Literal["running", "stopped", "failed"]
    reason: str = ""


def read_record(folder: Path) -> TrainingRecord | None:
    """The record in a training's folder; None where there is none.

    Raises:
        ArtifactError: It cannot be read.
    """
    try:
        return msgspec.json.decode((folder / _RECORD).read_bytes(), type=TrainingRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the record of a training must be readable ({error})", where=folder / _RECORD) from error


@final
class Training:
    """May be asked from several threads.

    Args:
        served: The model; it takes over the weights.
        folder: Where checkpoint, weights and record lie.
        record: What is asked.
        command: Of the process that trains.
        charge: What the process is told, for a training that goes on.
        log: Told when the process begins and ends.
    """

    def __init__(
        self,
        served: Served,
        folder: Path,
        record: TrainingRecord,
        command: Sequence[str],
        charge: TrainerCharge,
        log: EventLog,
    ) -> None:
        self.served, self.folder = served, folder
        self._record, self._command, self._charge, self._log = record, tuple(command), charge, log
        self._mutex = threading.Lock()
        self._batches = threading.BoundedSemaphore(_MOST_BATCHES)
        self._process: TrainerProcess | None = None
        self._state: TrainingState = "stopped" if record.state == "running" else record.state
        self._progress, self._reason, self._restarts = TrainingProgress(), record.reason, 0
        self._tries, self._tried_at = 0, 0

    def begin(self) -> None:
        """Start from the checkpoint, or from the artifact's weights where the order says so.

        Raises:
            RefusalError: The process cannot train; it says why.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._record.order.fresh:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        # Until it is ready it does not count as running: one that dies before is refused, not started again.
        with self._mutex:
            self._state = "stopped"
            process = self._start(again=False)
        try:
            process.wait_ready(_BEGIN_S)
        except RefusalError as refusal:
            process.kill()
            self._settle("failed", refusal.text)
            raise
        self._settle("running")
        if process.ended.is_set():
            self._ended(process, "the training process ended as it began", False)

    def go_on(self) -> None:
        """Start again what ran when the node ended, without waiting for it."""
        with self._mutex:
            self._state = "restarting"
            self._start(again=True)

    @property
    def runs(self) -> bool:
        """Whether there is a process, or the next is on its way."""
        return self._state in ("running", "restarting")

    def status(self) -> TrainingStatus:
        """How it goes."""
        done = self._state == "running" and self._progress.done
        return TrainingStatus(
            model=self.served.name,
            version=self.served.version,
            state="done" if done else self._state,
            order=self._record.order,
            progress=self._progress,
            weights=self.served.weights or "",
            restarts=self._restarts,
            reason=self._reason,
        )

    def batch(self, content: bytes, step: int | None) -> TrainerTold:
        """Learn from a batch; returns when that is done.

        Raises:
            RefusalError: It cannot be learnt from, too many wait, or the process ended meanwhile.
        """
        if not self._batches.acquire(blocking=False):
            full = InputError(f"at most {_MOST_BATCHES} batches may wait for their step", fix="Ask again later")
            raise RefusalError(Code.EXHAUSTED, full, retry_after_s=1.0)
        try:
            return self._running().ask("batch", content, step)[0]
        finally:
            self._batches.release()

    def ask(self, verb: TrainingVerb, content: bytes = b"") -> Told:
        """Have the process do something.

        Raises:
            RefusalError: It refuses, or does not run.
        """
        return self._running().ask(verb, content)

    def stop(self) -> None:
        """End it behind a checkpoint; the served model keeps the weights it has."""
        with self._mutex:
            process, self._state = self._process, "stopped"
        if process is not None:
            process.end(_STOP_S)
        self._settle("stopped")

    def leave(self, timeout_s: float) -> None:
        """End the process as the node ends; the next start of the node goes on."""
        with self._mutex:
            process, self._state = self._process, "stopped"
        if process is not None:
            process.end(timeout_s)

    def _running(self) -> TrainerProcess:
        with self._mutex:
            if self._state == "running" and self._process is not None:
                return self._process
        if self._state == "restarting":
            later = InputError("the training process must be there", got="one that is starting again")
            raise RefusalError(Code.UNAVAILABLE, later, retry_after_s=1.0)
        idle = InputError("the training must run", got=self._state, where=self.served.name, fix="Begin it first")
        raise RefusalError(Code.UNSUITED, idle)

    def _start(self, *, again: bool) -> TrainerProcess:
        charge = msgspec.structs.replace(self._charge, again=again)
        self._tried_at = self._progress.steps
        self._process = TrainerProcess(self._command, charge, self._told, self._ended)
        self._log.info("training begins", model=self.served.name, version=self.served.version, again=again)
        return self._process

    def _told(self, note: TrainerTold) -> None:
        """What the process says; from its thread."""
        if note.final and note.error:
            return
        self._progress = note.progress
        with self._mutex:
            if self._state == "restarting":
                self._state = "running"
        if note.swapped:
            try:
                self.served.take_over(read_learnt(self.folder / WEIGHTS, self.served.artifact.digest))
            except TierwiseError as error:
                self._log.error("weights are not taken over", model=self.served.name, reason=str(error))

    def _ended(self, process: TrainerProcess, reason: str, hopeless: bool) -> None:
        """The process is gone: start the next, unless it was told to go or cannot train at all."""
        with self._mutex:
            if process is not self._process or not self.runs:
                return
            self._process, self._reason = None, reason
            self._tries = 1 if self._progress.steps > self._tried_at else self._tries + 1
            hopeless = hopeless or self._tries >= _MOST_TRIES
            self._state = "failed" if hopeless else "restarting"
            self._restarts += not hopeless
        self._log.warning("training process ended", model=self.served.name, reason=reason, failed=hopeless)
        if hopeless:
            self._settle("failed", reason)
            return
        time.sleep(min(_FIRST_PAUSE_S * 2 ** (self._tries - 1), _LONGEST_PAUSE_S))
        with self._mutex:
            if self._state == "restarting":
                self._start(again=True)

    def _settle(self, state: Literal["running", "stopped", "failed"], reason: str = "") -> None:
        """Write down what shall be so at the next start."""
        with self._mutex:
            self._state, self._reason = state, reason
            if state != "running":
                self._process = None
            # What goes on after a kill goes on from the checkpoint, however it once began.
            order = msgspec.structs.replace(self._record.order, fresh=False)
            self._record = msgspec.structs.replace(self._record, order=order, state=state, reason=reason)
            stage = self.folder / f".{_RECORD}"
            stage.write_bytes(msgspec.json.encode(self._record))
            stage.replace(self.folder / _RECORD)
