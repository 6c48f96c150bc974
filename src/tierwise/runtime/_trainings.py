"""All trainings of a node: which there are, what they may learn from, and that they give way to requests."""

from __future__ import annotations

import contextlib
import mmap
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, final

from tierwise._errors import InputError, SpecError, TierwiseError
from tierwise.runtime._learnt import read_learnt
from tierwise.runtime._log import EventLog
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._repository import Repository
from tierwise.runtime._served import Served
from tierwise.runtime._spec import NodeSpec
from tierwise.runtime._training import Training, TrainingRecord, read_record
from tierwise.wire import WEIGHTS, TrainerCharge, TrainingOrder

__all__ = ["Trainings"]

_LEAVE_S: Final = 5.0


@final
class Trainings:
    """Trainings by the name of their model; may be asked from several threads.

    Args:
        spec: How the node serves.
        repository: Its models.
        command: Of the process that trains; empty: this node does not.
        log: Told what happens.
    """

    def __init__(self, spec: NodeSpec, repository: Repository, command: Sequence[str], log: EventLog) -> None:
        self._spec, self._repository, self._command, self._log = spec, repository, tuple(command), log
        self._changing = threading.Lock()
        self._trainings: dict[str, Training] = {}
        # One byte that the processes read: how many requests are under way. Made when it is first needed.
        self._file: IO[bytes] | None = None
        self._byte: mmap.mmap | None = None

    def show_busy(self, requests: int) -> None:
        """Tell the processes how many requests are under way: they begin no step while there are any."""
        if self._byte is not None:
            self._byte[0] = min(requests, 255)

    def restore(self) -> None:
        """Serve the weights that were served when the node ended, and go on with what was learnt then."""
        for model in self._repository.models():
            if not isinstance(model, Served) or not model.can_learn:
                continue
            folder = self._repository.training_folder(model.name, model.version)
            try:
                self._recall(model)
                record = read_record(folder)
                if record is None or not self._command:
                    continue
                training = self._trainings[model.name] = self._made(model, folder, record)
                if record.state == "running":
                    training.go_on()
            except (TierwiseError, OSError) as error:
                self._log.error("training does not go on", model=model.name, reason=str(error))

    def begin(self, name: str, order: TrainingOrder) -> Training:
        """Train the newest version of a model.

        Raises:
            InputError: The folder is not below the node's training folder.
            RefusalError: No such model, or it cannot be trained here, or is being trained.
        """
        if not self._command:
            raise RefusalError(Code.UNSUITED, SpecError("a node must be started to train", where=self._spec.tier))
        model = self._repository.model(name)
        if not isinstance(model, Served) or not model.can_learn:
            fixed = InputError(
                "only a model with a training step, all of it on this node, can be trained",
                where=name,
                fix="Load an artifact of: tierwise train compile",
            )
            raise RefusalError(Code.UNSUITED, fixed)
        items = None if order.folder is None else str(self._allowed(order.folder))
        with self._changing:
            known = self._trainings.get(name)
            if known is not None and known.served is model and known.runs:
                raise RefusalError(
                    Code.UNSUITED, InputError("a model may be trained once at a time", where=name, fix="Stop it first")
                )
            record = TrainingRecord(order=order, items=items, state="running")
            folder = self._repository.training_folder(name, model.version)
            training = self._trainings[name] = self._made(model, folder, record)
            training.begin()
            return training

    def find(self, name: str) -> Training:
        """The training of a model.

        Raises:
            RefusalError: There is none.
        """
        training = self._trainings.get(name)
        if training is None:
            raise RefusalError(
                Code.NOT_FOUND, InputError("the model must be one that is trained", got=repr(name[:80]), fix="Begin it")
            )
        return training

    def follow(self, name: str) -> None:
        """Take note that other models are served under a name.

        The training of what is not served any more ends, and is deleted where its version is gone. What is served
        again answers with the weights that it had.
        """
        with self._changing:
            self._end(name)
            if not self._repository.versions(name):
                return
            model = self._repository.model(name)
            if isinstance(model, Served) and model.can_learn:
                try:
                    self._recall(model)
                except TierwiseError as error:
                    self._log.error("weights are not taken over", model=name, reason=str(error))

    def _recall(self, model: Served) -> None:
        """Let a model take over the weights that it answered with before."""
        path = self._repository.training_folder(model.name, model.version) / WEIGHTS
        if path.exists():
            model.take_over(read_learnt(path, model.artifact.digest))

    def _end(self, name: str) -> None:
        training = self._trainings.get(name)
        served = self._repository.models(name) if self._repository.versions(name) else []
        if training is None or any(model is training.served for model in served):
            return
        del self._trainings[name]
        training.leave(_LEAVE_S)
        if not training.served.artifact.directory.exists():
            shutil.rmtree(training.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # what else lies there stays
                training.folder.parent.rmdir()
                training.folder.parent.parent.rmdir()

    def close(self) -> None:
        """End all processes, behind a checkpoint; the next start goes on."""
        with self._changing:
            for training in self._trainings.values():
                training.leave(_LEAVE_S)
            if self._file is not None:
                self._file.close()

    def _allowed(self, folder: str) -> Path:
        """The folder that an order names, below the one the operator allowed, symlinks followed."""
        if self._spec.training_folder is None:
            no_folder = SpecError(
                "a node must be allowed a folder to learn from", fix="Start it with --training-folder, or send batches"
            )
            raise RefusalError(Code.UNSUITED, no_folder)
        root = Path(self._spec.training_folder).resolve()
        try:
            found = (root / folder).resolve()
        except (OSError, ValueError, RuntimeError):  # a name no system has, or links in a circle
            found = root.parent
        if "\0" in folder or not found.is_relative_to(root) or not found.is_dir():
            raise InputError(
                "a folder to learn from must be one below the node's training folder", got=repr(folder[:200])
            )
        return found

    def _made(self, model: Served, folder: Path, record: TrainingRecord) -> Training:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the node
            self._file.truncate(1)
            self._byte = mmap.mmap(self._file.fileno(), 1)
        charge = TrainerCharge(
            artifact=str(model.artifact.directory.absolute()),
            folder=str(folder.absolute()),
            order=record.order,
            items=record.items,
            again=False,
            busy=self._file.fileno(),
            tensors=self._spec.limits.tensors,
            inputs=self._spec.limits.inputs,
        )
        return Training(model, folder, record, self._command, charge, self._log)
