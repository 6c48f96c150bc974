"""Building what will be measured: the trained model, its variants and their accuracy. Brings torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.artifact import Accuracy, Artifact, record_accuracy, record_rates
from tierwise.capture import Cut
from tierwise.measure import Progress, class_of
from tierwise.operators import ChooseCuts, OperatorSpec, Partition, build, parse_chain
from tierwise.planner import best_cut, best_cuts
from tierwise.runtime import Executor
from tierwise.study._answers import Answers, Examined, keep_examined, load_examined, packed, unpacked
from tierwise.study._compute import Speeds, measure_speeds, predict
from tierwise.study._inputs import Inputs
from tierwise.study._message import measure_message_s
from tierwise.study._plan import Asked
from tierwise.study._results import Strategy
from tierwise.study._stored import Prepared, StoredVariant
from tierwise.tasks import Task, score, score_classes
from tierwise.topology import Topology

__all__ = ["build_variants", "prepare"]

_BATCH = 64


def build_variants(
    task: Task, asked: Sequence[Asked], directory: Path, progress: Progress, threads: int
) -> tuple[Artifact, ...]:
    """Build and examine all that needs no times: every variant up to a cut, and those whose cut is named.

    A cut that is left to the cost model waits for `prepare`, since its choice rests on times of this machine.

    Args:
        task: What is deployed.
        asked: The strategies.
        directory: The study's directory; artifacts come to lie under it.
        progress: Shows long steps.
        threads: Threads for evaluating.

    Raises:
        TierwiseError: A chain cannot be parsed or built.
    """
    chains: dict[str, tuple[OperatorSpec, ...]] = {}
    for entry in asked:
        chain = parse_chain(entry.spec.chain, entry.spec.options)
        left_open = any(isinstance(spec, Partition) and spec.cut == "auto" for spec in chain)
        for wanted in (_uncut(chain), *(() if left_open else (chain,))):
            chains.setdefault(repr(wanted), wanted)
    found: dict[str, Artifact] = {}
    with progress.step("build variants", len(chains)) as advance:
        for chain in chains.values():
            artifact = _examined(task, build(task, chain, directory, progress), directory, progress, threads)
            found.setdefault(artifact.directory.name, artifact)
            advance(1)
    return tuple(found.values())


def prepare(
    task: Task,
    asked: Sequence[Asked],
    topology: Topology,
    inputs: Inputs,
    directory: Path,
    progress: Progress,
    threads: int,
) -> Prepared:
    """Build and examine every variant; what an earlier run has built is taken as it is.

    Args:
        task: What is deployed.
        asked: The strategies.
        topology: Fitted to this machine.
        inputs: Of the load.
        directory: The study's directory; artifacts come to lie under it.
        progress: Shows long steps.
        threads: Threads for evaluating.

    Raises:
        TierwiseError: A chain cannot be parsed or built.
    """
    wholes: dict[str, _Whole] = {}
    strategies: list[Strategy] = []
    artifacts: dict[str, Artifact] = {}
    chains = [parse_chain(entry.spec.chain, entry.spec.options) for entry in asked]
    with progress.step("time a message", None):
        per_message_s = measure_message_s()
    with progress.step("build variants", len(asked)) as advance:
        for entry, chain in zip(asked, chains, strict=True):
            key = repr(_uncut(chain))
            if key not in wholes:
                artifact = build(task, _uncut(chain), directory, progress)
                speeds = measure_speeds(artifact, inputs.tensors[0], topology, per_message_s)
                wholes[key] = _Whole(artifact, speeds)
            whole = wholes[key]
            artifact = build(task, chain, directory, progress, _chooser(entry, whole, topology, inputs.mean_bytes))
            artifacts.setdefault(artifact.directory.name, artifact)
            strategies.append(_strategy(entry, artifact, whole, topology, inputs.mean_bytes))
            advance(1)
    variants = {
        key: _examine(task, artifact, inputs, directory, progress, threads) for key, artifact in artifacts.items()
    }
    return Prepared(strategies=tuple(strategies), variants=variants, answers=_answers(task, variants, directory))


@final
@dataclass(frozen=True)
class _Whole:
    """The model before it is cut, and how fast each tier runs it."""

    artifact: Artifact
    speeds: Speeds


def _uncut(chain: tuple[OperatorSpec, ...]) -> tuple[OperatorSpec, ...]:
    kept = tuple(spec for spec in chain if not isinstance(spec, Partition))
    return kept or parse_chain("identity")


def _chooser(entry: Asked, whole: _Whole, topology: Topology, input_bytes: int) -> ChooseCuts:
    """The cost model's choice for one placement."""
    heights = [topology.index(tier) for tier in entry.segments]
    answer_bytes = sum(spec.nbytes() for spec in whole.artifact.manifest.outputs)
    speeds = [whole.speeds.s_per_mac[tier] for tier in entry.segments]
    links = [topology.links[low:high] for low, high in itertools.pairwise(heights)]

    def choose(cuts: tuple[Cut, ...], count: int) -> tuple[Cut, ...]:
        if count > 1:
            return tuple(cuts[index] for index in best_cuts(cuts, s_per_mac=speeds, links=links))
        choice = best_cut(
            cuts,
            input_bytes=input_bytes,
            answer_bytes=answer_bytes,
            lower_s_per_mac=speeds[0],
            upper_s_per_mac=speeds[-1],
            links=links[0],
            links_below=topology.links[: heights[0]],
            per_message_s=whole.speeds.per_message_s,
        )
        return (cuts[choice.index],)

    return choose


def _strategy(entry: Asked, artifact: Artifact, whole: _Whole, topology: Topology, input_bytes: int) -> Strategy:
    return Strategy(
        id=entry.id,
        name=entry.name,
        chain=artifact.manifest.provenance.chain,
        placement=entry.placement,
        segments=entry.segments,
        path=entry.path,
        variant=artifact.directory.name,
        predicted=predict(artifact, entry.segments, topology, whole.speeds, input_bytes),
    )


def _examine(
    task: Task, artifact: Artifact, inputs: Inputs, directory: Path, progress: Progress, threads: int
) -> StoredVariant:
    artifact = _examined(task, artifact, directory, progress, threads)
    executor = Executor(artifact, threads=threads)
    output = artifact.manifest.outputs[0].name
    return StoredVariant(
        key=artifact.directory.name,
        manifest=artifact.manifest,
        digest=artifact.digest,
        directory=str(artifact.directory.relative_to(directory)),
        artifact_bytes=artifact.nbytes,
        local_predictions=tuple(class_of(executor.run(tensors)[output]) for tensors in inputs.tensors),
    )


def _examined(task: Task, artifact: Artifact, directory: Path, progress: Progress, threads: int) -> Artifact:
    """``artifact`` with its accuracy on the test split, measured now where it was not before.

    Answers are on the disk before the accuracy is: whoever is killed in between finds them, and runs nothing again.
    """
    if any(known.split == "test" for known in artifact.manifest.accuracy):
        return artifact
    artifact = _with_rates(task, artifact, progress, threads)
    if task.boxes is not None:
        return record_accuracy(artifact, _box_accuracy(task, artifact, Executor(artifact, threads=threads), progress))
    variant = artifact.directory.name
    examined = load_examined(directory, variant)
    if examined is None or examined.digest != artifact.digest:
        examined = _examination(task, artifact, progress, threads)
        keep_examined(directory, variant, examined)
    return record_accuracy(artifact, _accuracy(task, examined, directory))


def _with_rates(task: Task, artifact: Artifact, progress: Progress, threads: int) -> Artifact:
    """``artifact`` with the test split's value of each rate that sends less than the whole latent."""
    rates = [rate for part in artifact.manifest.segments if part.boundary for rate in part.boundary.rates[:-1]]
    if not rates:
        return artifact
    found = {}
    for rate in rates:
        executor = Executor(artifact, threads=threads, channels=rate.channels)
        if task.boxes is not None:
            found[rate.channels] = _box_accuracy(task, artifact, executor, progress).value
            continue
        predicted, labels = _classes(task, artifact, executor, progress)
        found[rate.channels] = score_classes(task.metric, predicted, labels)
    return record_rates(artifact, found)


def _examination(task: Task, artifact: Artifact, progress: Progress, threads: int) -> Examined:
    """The one time that a variant sees the test split."""
    predicted, labels = _classes(task, artifact, Executor(artifact, threads=threads), progress)
    return Examined(digest=artifact.digest, labels=packed(labels), predicted=packed(predicted))


def _classes(
    task: Task, artifact: Artifact, executor: Executor, progress: Progress
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Class that was answered and class that it is, of every test item."""
    output = artifact.manifest.outputs[0].name
    predicted, labels = [], []
    with progress.step(f"accuracy of {artifact.directory.name}", len(task.splits["test"])) as advance:
        for tensors, batch_labels in task.batches("test", _batch(executor)):
            scores = executor.run(tensors)[output]
            if scores.ndim != 2 or len(scores) != len(batch_labels):
                raise InputError(
                    "the first output must be [n, classes] scores", got=scores.shape, where=artifact.directory
                )
            predicted.append(scores.argmax(axis=1))
            labels.append(batch_labels)
            advance(len(batch_labels))
    if not labels:
        raise InputError("the test split must hold items", got="none", where=task.name)
    return np.concatenate(predicted), np.concatenate(labels)


def _batch(executor: Executor) -> int:
    """Items at a time: as many as a model with a fixed batch axis takes."""
    return next((spec.shape[0] for spec in executor.inputs if spec.shape and spec.shape[0] > 0), _BATCH)


def _box_accuracy(task: Task, artifact: Artifact, executor: Executor, progress: Progress) -> Accuracy:
    """As `_examination`, for boxes, whose answers are too large to keep."""
    output = artifact.manifest.outputs[0].name
    found = []
    with progress.step(f"accuracy of {artifact.directory.name}", len(task.splits["test"])) as advance:
        for tensors, batch_labels in task.batches("test", _batch(executor)):
            found.append(executor.run(tensors)[output])
            advance(len(batch_labels))
    if not found:
        raise InputError("the test split must hold items", got="none", where=task.name)
    labels = task.splits["test"].labels
    value = score(task.metric, np.concatenate(found), labels)
    return Accuracy(metric=task.metric, value=value, split="test", items=len(labels))


def _accuracy(task: Task, examined: Examined, directory: Path) -> Accuracy:
    labels, predicted = unpacked(examined.labels, directory), unpacked(examined.predicted, directory)
    value = score_classes(task.metric, predicted, labels)
    return Accuracy(metric=task.metric, value=value, split="test", items=len(labels))


def _answers(task: Task, variants: Mapping[str, StoredVariant], directory: Path) -> Answers | None:
    """What was answered, of the variants whose answers give the very accuracy that was recorded."""
    labels: npt.NDArray[np.int64] | None = None
    predicted = {}
    for key, variant in variants.items():
        examined = load_examined(directory, key)
        if examined is None or _accuracy(task, examined, directory) not in variant.manifest.accuracy:
            continue
        own = unpacked(examined.labels, directory)
        labels = own if labels is None else labels
        if np.array_equal(own, labels):
            predicted[key] = unpacked(examined.predicted, directory)
    return None if labels is None else Answers(labels, predicted)
