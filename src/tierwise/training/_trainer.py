"""The process that trains for a serving node: it learns at the lowest priority and speaks over a pipe.

The node goes on when this process is killed, and this process ends when the node is: its end of the pipe closes. What
it has learnt by then is in the last checkpoint, from which the next one goes on with the very same items.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import ArtifactError, InputError, TierwiseError, UnavailableError
from tierwise.artifact import Artifact, Preprocessor, open_artifact, to_payload
from tierwise.training._feed import Feed
from tierwise.training._folder import read_folder
from tierwise.training._pace import Busy, Pace, step_aside
from tierwise.training._session import TrainingSession
from tierwise.training._whole_file import write_whole
from tierwise.wire import (
    CHECKPOINT,
    LABELS,
    WEIGHTS,
    TrainerAsk,
    TrainerCharge,
    TrainerTold,
    TrainingProgress,
    decode_request,
    dtype_name,
    infer_response,
    read_note,
    write_note,
    write_parameters,
)

__all__ = ["train_for_node"]

_COURSE: Final = "course"
_TELL_S: Final = 0.25
_KEPT: Final = 20

Tensors = Mapping[str, npt.NDArray[Any]]


def train_for_node(asks: IO[bytes], tells: IO[bytes]) -> None:
    """Do what comes over ``asks`` until it says so or ends, and say what became of it over ``tells``.

    Args:
        asks: Brings a `TrainerCharge`, and then `TrainerAsk` after `TrainerAsk`.
        tells: Takes `TrainerTold`. The first says that training begins, or why it cannot.
    """
    first = read_note(asks, TrainerCharge)
    if first is None:
        return
    step_aside()
    charge = first[0]
    try:
        # One process for one folder: that of a node which was killed may still be on its way out.
        with (Path(charge.folder) / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            trainer = _Trainer(charge, tells)
            asked: queue.SimpleQueue[tuple[TrainerAsk, bytes]] = queue.SimpleQueue()
            threading.Thread(target=_listen, args=(asks, asked), daemon=True).start()
            trainer.run(asked)
    except Exception as error:
        write_note(tells, TrainerTold(progress=TrainingProgress(), error=_text(error), fault=_fault(error), final=True))


def _listen(asks: IO[bytes], asked: queue.SimpleQueue[tuple[TrainerAsk, bytes]]) -> None:
    while True:
        note = read_note(asks, TrainerAsk)
        if note is None:
            # The node is gone: nobody is left to learn for, and a step that runs has changed nothing yet.
            os._exit(0)
        asked.put(note)


@final
class _Trainer:
    """A session, where its batches come from, and whom it tells."""

    def __init__(self, charge: TrainerCharge, tells: IO[bytes]) -> None:
        self._charge, self._order, self._tells = charge, charge.order, tells
        self._folder = Path(charge.folder)
        artifact = open_artifact(Path(charge.artifact))
        room = charge.order.feature_cache_bytes
        self._artifact = artifact
        self._session = TrainingSession(artifact, lean=charge.order.lean, cache_bytes=room)
        self._prepare = Preprocessor(artifact.manifest.input, artifact.directory, charge.inputs)
        self._items = None if charge.items is None else _Items(artifact, charge, self._session.spec.batch)
        checkpoint = self._folder / CHECKPOINT
        if checkpoint.exists():
            self._session.resume(checkpoint)
        self._saved = self._session.steps
        self._losses: deque[float] = deque(maxlen=_KEPT)
        self._times_s: deque[float] = deque(maxlen=_KEPT)
        self._batches: deque[tuple[TrainerAsk, bytes]] = deque()
        self._busy, self._pace = Busy(charge.busy), Pace(charge.order.share_frac)
        self._told_s = 0.0

    def run(self, asked: queue.SimpleQueue[tuple[TrainerAsk, bytes]]) -> None:
        """Learn until told to end."""
        self._tell()
        while True:
            try:
                ask, content = asked.get(timeout=self._pause_s())
            except queue.Empty:
                self._learn()
                continue
            if ask.verb == "batch":
                self._batches.append((ask, content))
            elif not self._obey(ask, content):
                return

    def _done(self) -> bool:
        return self._order.steps is not None and self._session.steps >= self._order.steps

    def _pause_s(self) -> float | None:
        """How long nothing but asks is to be done; None where only they bring more."""
        if self._batches or (self._items is not None and not self._done()):
            return self._pace.wait_s
        return None

    def _learn(self) -> None:
        """One step, from a batch that was sent or from the folder."""
        self._busy.wait()
        began_s = time.monotonic()
        ask, content = self._batches.popleft() if self._batches else (None, b"")
        try:
            if ask is not None:
                self._check(ask)
                loss = self._session.step(*self._sent(content), self._order.rate)
            else:
                assert self._items is not None
                loss = self._items.step(self._session, self._order.rate)
        except Exception as error:
            # Whatever a client sends, the next batch is another; a folder would bring the same one again.
            self._pace.worked(began_s)
            if ask is None:
                raise
            self._refuse(ask, error)
            if self._order.lean and not isinstance(error, InputError):
                raise  # what is half written is not learnt on: the next process reads the checkpoint
            return
        self._losses.append(loss)
        steps, order = self._session.steps, self._order
        if steps % order.checkpoint_every == 0 or self._done():
            self._save()
        swapped = order.swap_every is not None and (steps % order.swap_every == 0 or self._done())
        if swapped:
            self._hand_over()
        self._times_s.append(self._pace.worked(began_s))
        if ask is not None:
            self._tell(id=ask.id, loss=loss, swapped=swapped)
        elif swapped or self._done() or self._saved == steps or time.monotonic() > self._told_s + _TELL_S:
            self._tell(swapped=swapped)

    def _check(self, ask: TrainerAsk) -> None:
        if self._items is not None:
            raise InputError("who learns from a folder takes no batches", fix="Stop it and begin without a folder")
        if self._done():
            raise InputError(f"training must end behind {self._order.steps} steps", fix="Begin again with more steps")
        if ask.step is not None and ask.step != self._session.steps:
            raise InputError(
                "the batch must be of the next step",
                got=f"one behind {ask.step} steps",
                where=f"{self._session.steps} steps taken",
                fix="Go on with the batch behind the steps that the status tells",
            )

    def _sent(self, content: bytes) -> tuple[Tensors, npt.NDArray[np.int64]]:
        """Model inputs and labels of a batch that was sent."""
        tensors = decode_request(content, self._charge.tensors).tensors()
        labels = tensors.pop(LABELS, None)
        if labels is None or labels.dtype.kind not in "iu" or labels.ndim == 0:
            got = "none" if labels is None else f"{labels.dtype} {list(labels.shape)}"
            raise InputError(f"a batch must have a tensor {LABELS!r} of whole numbers", got=got)
        inputs = self._prepare(tensors)
        for spec in self._artifact.manifest.segments[0].inputs:
            array = inputs.get(spec.name, labels)
            if dtype_name(array, spec.name) != spec.dtype or array.shape[1:] != spec.shape[1:]:
                raise InputError(
                    f"a batch must hold {spec.dtype} {list(spec.shape)}",
                    got=f"{dtype_name(array)} {list(array.shape)}" if spec.name in inputs else "no such tensor",
                    where=spec.name,
                )
        return inputs, labels.astype(np.int64)

    def _obey(self, ask: TrainerAsk, content: bytes) -> bool:
        """Whether to go on."""
        began_s, answer, swapped = time.monotonic(), b"", False
        try:
            match ask.verb:
                case "save":
                    self._save()
                case "swap":
                    self._hand_over()
                    swapped = True
                case "delta":
                    answer = self._delta()
                case "apply":
                    self._apply(content)
                    swapped = True
                case _:
                    self._save()
        except TierwiseError as error:
            self._refuse(ask, error)
            return True
        finally:
            self._pace.worked(began_s)
        self._tell(answer, id=ask.id, swapped=swapped, final=ask.verb in ("stop", "leave"))
        return ask.verb not in ("stop", "leave")

    def _save(self) -> None:
        if self._saved != self._session.steps or not (self._folder / CHECKPOINT).exists():
            self._session.save(self._folder / CHECKPOINT)
            self._saved = self._session.steps

    def _hand_over(self) -> None:
        """Leave the weights where the node takes them from, now and at its next start."""
        framed = infer_response(self._artifact.manifest.name, self._artifact.digest, self._session.trained())
        write_parameters(framed.message.parameters, {"steps": self._session.steps})
        write_whole(self._folder / WEIGHTS, framed.encode())

    def _delta(self) -> bytes:
        path = self._folder / "delta.safetensors"
        try:
            self._session.export_delta(path)
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def _apply(self, content: bytes) -> None:
        path = self._folder / "applied.safetensors"
        try:
            path.write_bytes(content)
            self._session.apply_delta(path)
        finally:
            path.unlink(missing_ok=True)
        self._losses.clear()
        self._session.save(self._folder / CHECKPOINT)
        self._saved = self._session.steps
        self._hand_over()

    def _refuse(self, ask: TrainerAsk, error: Exception) -> None:
        note = TrainerTold(progress=self._progress(), id=ask.id, error=_text(error), fault=_fault(error))
        write_note(self._tells, note)

    def _tell(
        self, content: bytes = b"", *, id: int = 0, loss: float = 0.0, swapped: bool = False, final: bool = False
    ) -> None:
        self._told_s = time.monotonic()
        note = TrainerTold(progress=self._progress(), id=id, loss=loss, swapped=swapped, final=final)
        write_note(self._tells, note, content)

    def _progress(self) -> TrainingProgress:
        return TrainingProgress(
            steps=self._session.steps,
            saved_steps=self._saved,
            losses=tuple(self._losses),
            step_s=sum(self._times_s) / len(self._times_s) if self._times_s else 0.0,
            used_frac=self._pace.used_frac,
            done=self._done(),
        )


@final
class _Items:
    """The pictures of a folder as a function of the step; the folder must be the same when the training goes on."""

    def __init__(self, artifact: Artifact, charge: TrainerCharge, batch: int) -> None:
        assert charge.items is not None
        self._encoding = artifact.manifest.input
        self._prepare = Preprocessor(self._encoding, artifact.directory, charge.inputs)
        self._items, self._labels = read_folder(Path(charge.items), artifact.manifest.labels, self._encoding)
        self._feed = Feed(len(self._items), batch, charge.order.seed)
        course, path = self._fingerprint(), Path(charge.folder) / _COURSE
        if charge.again and path.exists() and path.read_bytes() != course:
            raise InputError(
                "a folder must be the same when its training goes on after a kill",
                where=charge.items,
                fix="Begin again to go on with what it holds now",
            )
        write_whole(path, course)

    def step(self, session: TrainingSession, rate: float | None) -> float:
        """The next step of ``session``; the loss before it."""
        chosen = self._feed.indices(session.steps).tolist()
        inputs: Tensors = {}
        if not session.knows(chosen):
            inputs = self._prepare(to_payload(self._encoding, [self._items[i] for i in chosen]))
        return session.step(inputs, self._labels[chosen], rate, chosen)

    def _fingerprint(self) -> bytes:
        whole = hashlib.sha256(self._labels.tobytes())
        for item in self._items:
            whole.update(hashlib.sha256(item.tobytes() if isinstance(item, np.ndarray) else item).digest())
        return whole.hexdigest().encode()


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, TierwiseError) else f"unexpected {type(error).__name__}: {error}"


def _fault(error: Exception) -> Any:
    if isinstance(error, UnavailableError):
        return "node"
    return "asker" if isinstance(error, InputError) and not isinstance(error, ArtifactError) else "unknown"
