"""What fronts ask about training, without a word of any protocol but its JSON."""

from __future__ import annotations

from typing import Final, Literal, final

import msgspec

from tierwise._errors import InputError
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._trainings import Trainings
from tierwise.wire import STEP, BatchTaken, Framed, Push, TrainingOrder, read_parameters

__all__ = ["TrainingAsk", "TrainingDesk"]

TrainingAsk = Literal["begin", "status", "save", "swap", "delta", "apply", "stop"]

_DELTA: Final = "delta"


@final
class TrainingDesk:
    """Answers for the trainings of a node; every method may be called from several threads.

    Args:
        trainings: All there are; None: the node does not train.
    """

    def __init__(self, trainings: Trainings | None) -> None:
        self._trainings = trainings

    def show_busy(self, requests: int) -> None:
        """Let trainings give way while requests are under way."""
        if self._trainings is not None:
            self._trainings.show_busy(requests)

    def follow(self, model: str) -> None:
        """What is served as ``model`` has changed."""
        if self._trainings is not None:
            self._trainings.follow(model)

    def tell(self, verb: TrainingAsk, asked: Push) -> bytes:
        """Do what is asked; the status as JSON, or the delta's file.

        Raises:
            InputError: What came with it is wrong.
            RefusalError: It cannot be done.
        """
        trainings = self._known()
        if verb == "begin":
            return msgspec.json.encode(trainings.begin(asked.model, _order(asked.config)).status())
        training, content = trainings.find(asked.model), b""
        match verb:
            case "apply":
                if set(asked.files) != {_DELTA}:
                    raise InputError(f"a delta must come as the file {_DELTA!r}", got=sorted(asked.files)[:4])
                training.ask("apply", bytes(asked.files[_DELTA]))
            case "delta":
                content = training.ask("delta")[1]
            case "save" | "swap":
                training.ask(verb)
            case "stop":
                training.stop()
        return content or msgspec.json.encode(training.status())

    def batch(self, request: Framed, most_bytes: int) -> bytes:
        """Learn from a batch; what came of it as JSON.

        Args:
            request: The batch.
            most_bytes: Largest that is taken.

        Raises:
            InputError: A parameter is wrong.
            RefusalError: It cannot be learnt from, or not now.
        """
        step = read_parameters(request.message.parameters).get(STEP)
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 63):
            raise InputError("the parameter must be a whole number from 0 on", got=repr(step)[:80], where=STEP)
        content = request.encode()
        if len(content) > most_bytes:
            large = InputError(f"a request must have at most {most_bytes:,} bytes", got=f"{len(content):,}")
            raise RefusalError(Code.TOO_LARGE, large)
        told = self._known().find(request.message.model_name).batch(content, step)
        taken = BatchTaken(loss=told.loss, steps=told.progress.steps, saved_steps=told.progress.saved_steps)
        return msgspec.json.encode(taken)

    def _known(self) -> Trainings:
        if self._trainings is None:
            raise RefusalError(Code.UNSUITED, InputError("a node must be started to train"))
        return self._trainings


def _order(config: bytes | None) -> TrainingOrder:
    try:
        return TrainingOrder() if config is None else msgspec.json.decode(config, type=TrainingOrder)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f'the order must be JSON such as {{"share_frac": 0.25, "swap_every": 100}} ({error})', where="config"
        ) from error
