"""Schemes beside each other on one task: each is compiled, trained as a node would train it, and judged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar, final

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise.artifact import Artifact, Optimiser, open_artifact
from tierwise.measure import Progress, Silent
from tierwise.tasks import Task, score
from tierwise.training._feed import Feed
from tierwise.training._scheme import Scheme
from tierwise.training._session import TrainingSession, training_step_of
from tierwise.training._trial import Trace, Trial
from tierwise.training._whole_file import write_whole
from tierwise.training.compiler._compile import compile_task
from tierwise.training.compiler._timeline import timeline_of

__all__ = ["Comparison", "compare", "read_comparison"]

T = TypeVar("T")
Positive = Annotated[int, msgspec.Meta(gt=0)]
_ASKED, _TRIALS, _TRACES = "comparison.json", "trials", "traces"
_JUDGED, _LARGEST = 128, 12


class Comparison(Spec, frozen=True, kw_only=True):
    """What is compared.

    Attributes:
        task: Name of the task.
        fingerprint: Of the task.
        schemes: By name.
        optimiser: Its kind and constants; its rate is that of the verify vectors alone.
        rates: Learning rates to choose from, by the validation split with the first seed, for each scheme by itself.
        seeds: Trainings of each scheme at its rate.
        steps: Of each training.
        batch: Items of a step.
    """

    task: str
    fingerprint: str
    schemes: Annotated[dict[str, Scheme], msgspec.Meta(min_length=1)]
    optimiser: Optimiser
    rates: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]
    seeds: Positive
    steps: Positive
    batch: Positive


def read_comparison(directory: Path) -> tuple[tuple[Trial, ...], tuple[Trace, ...]]:
    """What a comparison has found so far, in the order of its schemes.

    Raises:
        InputError: ``directory`` holds none.
    """
    if not (directory / _ASKED).exists():
        raise InputError(
            "the directory must hold a comparison of training schemes",
            where=directory,
            fix="Make one with: tierwise train compare",
        )
    place = {name: i for i, name in enumerate(_read(directory / _ASKED, Comparison).schemes)}
    trials = [_read(path, Trial) for path in (directory / _TRIALS).glob("*.json")]
    traces = [_read(path, Trace) for path in (directory / _TRACES).glob("*.json")]
    return (
        tuple(sorted(trials, key=lambda one: (place[one.scheme], one.rate, one.seed))),
        tuple(sorted(traces, key=lambda one: place[one.scheme])),
    )


def compare(task: Task, asked: Comparison, directory: Path, progress: Progress | None = None) -> tuple[Trial, ...]:
    """Train every scheme of ``asked`` on the train split and judge it; what ``directory`` holds is not done again.

    Args:
        task: With a torch model, from whose weights every training begins.
        asked: What is compared.
        directory: Artifacts, trials and traces are kept there.
        progress: Shows the steps.

    Raises:
        InputError: As `compile_task`, or ``directory`` holds another comparison.
        SpecError: A scheme does not fit the model.
    """
    progress = progress if progress is not None else Silent()
    content = msgspec.json.format(msgspec.json.encode(asked), indent=1)
    known = directory / _ASKED
    if known.exists() and known.read_bytes() != content:
        raise InputError(
            "the directory of a comparison must hold this one or none", where=directory, fix="Give another with -o"
        )
    for name in (_TRIALS, _TRACES):
        (directory / name).mkdir(parents=True, exist_ok=True)
    write_whole(known, content)
    contest = _Contest(task, asked, directory, progress)
    return tuple(trial for name in asked.schemes for trial in contest.trials(name))


@final
class _Contest:
    """The schemes that are trained side by side."""

    def __init__(self, task: Task, asked: Comparison, directory: Path, progress: Progress) -> None:
        self._task, self._asked, self._directory, self._progress = task, asked, directory, progress
        self._sessions: dict[str, TrainingSession] = {}

    def trials(self, name: str) -> Iterator[Trial]:
        """Of one scheme: every rate with the first seed, then the best rate with the others."""
        first = [self._trial(name, rate, 0) for rate in self._asked.rates]
        yield from first
        best = max(first, key=lambda one: one.validation)
        for seed in range(1, self._asked.seeds):
            yield self._trial(name, best.rate, seed)
        self._sessions.clear()

    def _trial(self, name: str, rate: float, seed: int) -> Trial:
        path = self._directory / _TRIALS / f"{name}-{rate:g}-{seed}.json"
        if path.exists():
            return _read(path, Trial)
        session, asked = self._session(name), self._asked
        session.restart()
        self._train(session, f"{name}, rate {rate:g}, seed {seed}", rate, seed)
        plan = session.spec.plan
        trial = Trial(
            task=asked.task,
            metric=self._task.metric,
            scheme=name,
            optimiser=asked.optimiser.kind,
            rate=rate,
            seed=seed,
            steps=asked.steps,
            batch=asked.batch,
            validation=self._judged(session, "validation"),
            test=self._judged(session, "test"),
            test_items=len(self._task.splits["test"]),
            trained_values=sum(math.prod(one.shape) for one in session.spec.trained),
            memory_bytes=plan.needed_bytes,
            step_s=plan.measured_step_s,
            macs=plan.prefix_macs + plan.step_macs,
        )
        write_whole(path, msgspec.json.format(msgspec.json.encode(trial), indent=1))
        return trial

    def _train(self, session: TrainingSession, title: str, rate: float, seed: int) -> None:
        train, steps = self._task.splits["train"], self._asked.steps
        feed = Feed(len(train), self._asked.batch, seed)
        with self._progress.step(title, steps) as advance:
            for step in range(steps):
                chosen = feed.indices(step)
                tensors = self._task.tensors([train.items[i] for i in chosen.tolist()])
                now = rate * (1 + math.cos(math.pi * step / steps)) / 2
                session.step(tensors, train.labels[chosen].astype(np.int64), now)
                advance(1)

    def _judged(self, session: TrainingSession, split: str) -> float:
        items, labels = self._task.splits[split].items, self._task.splits[split].labels
        answers: list[npt.NDArray[np.float32]] = [
            session.predict(self._task.tensors(items[at : at + _JUDGED])) for at in range(0, len(items), _JUDGED)
        ]
        return float(score(self._task.metric, np.concatenate(answers), labels))

    def _session(self, name: str) -> TrainingSession:
        if name not in self._sessions:
            place = self._directory / "artifacts" / name
            asked = self._asked
            if place.exists():
                artifact = open_artifact(place)
            else:
                artifact = compile_task(
                    self._task, asked.schemes[name], asked.optimiser, asked.batch, place, self._progress
                )
            write_whole(self._directory / _TRACES / f"{name}.json", msgspec.json.encode(_trace(name, artifact)))
            self._sessions = {name: TrainingSession(artifact)}
        return self._sessions[name]


def _trace(name: str, artifact: Artifact) -> Trace:
    line = timeline_of(onnx.load(artifact.path(training_step_of(artifact).step)))
    return Trace(scheme=name, live_bytes=tuple(one.bytes for one in line.moments), largest=line.at_peak(_LARGEST))


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise InputError(
            f"the file must be one that a comparison has written ({error})",
            where=path,
            fix="Delete it: it is made again",
        ) from error
