"""What each depth of biases and each slice of weights brings, measured by short trainings on a probe set."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from tierwise._config import Spec
from tierwise._errors import InputError
from tierwise._seeds import stream, stream_seed
from tierwise.artifact import Optimiser
from tierwise.measure import Progress
from tierwise.tasks import Split, Task
from tierwise.training._feed import Feed
from tierwise.training._scheme import Scheme
from tierwise.training.compiler import Model, computing, resolve, run_eager
from tierwise.training.search._candidates import Candidates
from tierwise.training.search._entries import Entries, model_digest, tensors_digest

__all__ = ["Contributions", "Probe", "ProbeSet", "Trials", "measure_contributions", "probe_set", "trained_accuracy"]

_REVISION = 1
_CHUNK = 128
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Probe(Spec, frozen=True, kw_only=True):
    """A short training.

    Attributes:
        items: Of the train split, drawn by a seed; they are what is learnt from.
        held: Of the validation split, drawn likewise; accuracy is measured on them.
        steps: Of one training.
        batch: Items of a step.
        optimiser: How.
        seeds: One training each, of the order of items and of a new classifier; their mean counts.
        renew: Whether the classifier begins anew, as it must for classes that the model does not know.
    """

    items: Positive = 512
    held: Positive = 1000
    steps: Positive = 100
    batch: Positive = 16
    optimiser: Optimiser = Optimiser(kind="momentum", rate=0.01)
    seeds: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)] = (0,)
    renew: bool = True


@final
@dataclass(frozen=True)
class ProbeSet:
    """Tensors to learn from and to measure on.

    Attributes:
        inputs: Model inputs in order, [items, ...] each.
        labels: [items].
        held_inputs: Likewise, of other items.
        held_labels: Likewise.
    """

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    held_inputs: tuple[torch.Tensor, ...]
    held_labels: torch.Tensor

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        parts = (*self.inputs, self.labels, *self.held_inputs, self.held_labels)
        return tensors_digest({str(i): part for i, part in enumerate(parts)})


@final
@dataclass(frozen=True)
class Contributions:
    """Accuracies on the held items.

    Attributes:
        depths: By `Candidates.depths`; the first is the classifier alone.
        slices: By `Candidates.slices`, each beside the biases of the deepest depth.
    """

    depths: tuple[float, ...]
    slices: tuple[float, ...]

    def depth_gains(self) -> tuple[float, ...]:
        """Over the classifier alone."""
        return tuple(accuracy - self.depths[0] for accuracy in self.depths)

    def slice_gains(self) -> tuple[float, ...]:
        """Over the biases of the deepest depth."""
        return tuple(accuracy - self.depths[-1] for accuracy in self.slices)


def probe_set(task: Task, probe: Probe, names: tuple[str, ...], learnt: Split | None = None) -> ProbeSet:
    """Items of a task, as tensors; of its train and validation splits, never of its test split.

    Args:
        task: Gives the items and what makes tensors of them.
        probe: How many.
        names: Of the model's inputs, in order.
        learnt: Items to take in place of the task's; a third of them is held out.

    Raises:
        InputError: Too few items.
    """
    if learnt is None:
        train, held = task.splits["train"], task.splits["validation"]
    else:
        order = stream(0, "probe", "folder").permutation(len(learnt))
        train, held = learnt.take(order[len(order) // 3 :]), learnt.take(order[: len(order) // 3])
    if len(train) < probe.batch or len(held) < 1:
        raise InputError(
            f"a probe needs a batch of {probe.batch} items to learn from and others to measure on",
            got=f"{len(train)} and {len(held)}",
            fix="Give more items, or smaller batches",
        )
    inputs, labels = _tensors(task, _drawn(train, probe.items, "train"), names)
    held_inputs, held_labels = _tensors(task, _drawn(held, probe.held, "held"), names)
    return ProbeSet(inputs, labels, held_inputs, held_labels)


@final
class Trials:
    """Short trainings of one model on one probe set, each done once.

    Args:
        model: Trained elsewhere; stays as it is.
        data: Learnt from and measured on.
        cache: Folder of entries; their names are hashes of weights, data, probe and scheme.
    """

    def __init__(self, model: Model, data: ProbeSet, cache: Path) -> None:
        self._model, self._data, self._entries = model, data, Entries(cache)
        self._about = ["contribution", _REVISION, model_digest(model), data.digest]

    def accuracy(self, scheme: Scheme, probe: Probe) -> float:
        """Mean accuracy on the held items over the probe's seeds.

        Raises:
            SpecError: The scheme does not fit the model.
        """
        found = []
        for seed in probe.seeds:
            how = msgspec.structs.replace(probe, seeds=(seed,))
            asked = [*self._about, msgspec.to_builtins(how), msgspec.to_builtins(scheme)]
            accuracy = self._entries.get(asked, float)
            if accuracy is None:
                accuracy = trained_accuracy(self._model, scheme, self._data, how)
                self._entries.put(asked, accuracy)
            found.append(accuracy)
        return float(np.mean(found))


def measure_contributions(
    model: Model, chosen: Candidates, data: ProbeSet, probe: Probe, cache: Path, progress: Progress
) -> Contributions:
    """One short training for each depth, each slice and each seed; those in ``cache`` are not done again.

    Args:
        model: Trained elsewhere; stays as it is.
        chosen: What is measured.
        data: Learnt from and measured on.
        probe: The short training.
        cache: Folder of entries; their names are hashes of weights, data, probe and scheme.
        progress: Shows the trainings.
    """
    deepest = chosen.depths[-1]
    schemes = [chosen.bias_only(depth) for depth in chosen.depths]
    schemes += [chosen.with_slice(deepest, layer, ratio) for layer, ratio, _ in chosen.slices]
    trials, found = Trials(model, data, cache), list[float]()
    with progress.step("measuring contributions", len(schemes)) as advance:
        for scheme in schemes:
            found.append(trials.accuracy(scheme, probe))
            advance(1)
    return Contributions(tuple(found[: len(chosen.depths)]), tuple(found[len(chosen.depths) :]))


def trained_accuracy(model: Model, scheme: Scheme, data: ProbeSet, probe: Probe) -> float:
    """Accuracy on the held items after one short training by ``scheme``, with the first of the probe's seeds."""
    seed = probe.seeds[0]
    begun = _renewed(model, seed) if probe.renew else model
    feed = Feed(len(data.labels), probe.batch, seed)
    batches = []
    for step in range(probe.steps):
        places = torch.from_numpy(feed.indices(step))
        batches.append((tuple(x[places] for x in data.inputs), data.labels[places]))
    trained = resolve(scheme, begun)
    course = run_eager(begun, trained, probe.optimiser, batches, probe.steps)
    tensors = {name: tensor.detach() for name, tensor in begun.tensors.items()}
    for one in trained:
        final = course.finals[one.name]
        if one.channels:
            whole = tensors[one.name].clone()
            whole[:, list(one.channels)] = final
            final = whole
        tensors[one.name] = final
    return _accuracy(begun, tensors, data)


def _accuracy(model: Model, tensors: Mapping[str, torch.Tensor], data: ProbeSet) -> float:
    right = 0
    with torch.no_grad():
        for start in range(0, len(data.held_labels), _CHUNK):
            place = slice(start, start + _CHUNK)
            logits = model(tuple(x[place] for x in data.held_inputs), tensors)
            right += int((logits.argmax(dim=1) == data.held_labels[place]).sum())
    return right / len(data.held_labels)


def _renewed(model: Model, seed: int) -> Model:
    """The same with a classifier as PyTorch begins one: uniform within one over the root of its width."""
    rng = torch.Generator().manual_seed(stream_seed(seed, "classifier"))
    tensors = dict(model.tensors)
    for name in computing(model)[-1].parameters:
        old = tensors[name].detach()
        bound = old.shape[1] ** -0.5 if old.ndim > 1 else 0.0
        tensors[name] = (torch.rand(old.shape, generator=rng) * 2 - 1) * bound
    renewed = copy.copy(model)
    renewed.tensors = tensors
    return renewed


def _drawn(split: Split, count: int, name: str) -> Split:
    return split.take(stream(0, "probe", name).permutation(len(split))[:count])


def _tensors(task: Task, split: Split, names: tuple[str, ...]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for start in range(0, len(split), _CHUNK):
        parts.append(task.tensors(split.items[start : start + _CHUNK]))
    inputs = tuple(torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in names)
    return inputs, torch.from_numpy(split.labels.astype(np.int64))
