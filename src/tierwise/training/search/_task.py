"""The whole search for one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from tierwise._errors import InputError
from tierwise.artifact import Optimiser
from tierwise.measure import Progress, Silent
from tierwise.tasks import Split, Task
from tierwise.training.compiler import lesson_of, read_model
from tierwise.training.search._candidates import RATIOS, candidates
from tierwise.training.search._contribution import Contributions, Probe, Trials, measure_contributions, probe_set
from tierwise.training.search._cost import calibrate, measure_costs, measured_cpu_s
from tierwise.training.search._finalists import Tried, best_tried, try_finalists
from tierwise.training.search._search import Outcome, check_budget, search_scheme
from tierwise.training.search._table import Budget, Table

__all__ = ["TaskSearch", "search_task"]


@final
@dataclass(frozen=True)
class TaskSearch:
    """What a search found, and by which numbers.

    Attributes:
        outcome: The schemes.
        table: Gains and costs.
        contributions: The accuracies behind the gains.
        tried: The best scheme of each depth, trained.
    """

    outcome: Outcome
    table: Table
    contributions: Contributions
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """The most accurate of those that were trained."""
        return best_tried(self.tried)


def search_task(
    task: Task,
    budget: Budget,
    optimiser: Optimiser,
    batch: int,
    cache: Path,
    progress: Progress | None = None,
    *,
    probe: Probe | None = None,
    layers: Sequence[str] = (),
    ratios: Sequence[float] = RATIOS,
    learnt: Split | None = None,
) -> TaskSearch:
    """Measure contributions and costs once, search, and train the best of each depth.

    Steps are compiled only where the budget names a time.

    Args:
        task: With a torch model and classes.
        budget: Of one step.
        optimiser: Of the step that shall be compiled.
        batch: Items of that step.
        cache: Folder; what was measured is kept under ``schemes`` in it.
        progress: Shows the steps.
        probe: The short trainings; by default with ``batch`` of their own.
        layers: See `candidates`.
        ratios: See `candidates`.
        learnt: Items to probe with in place of the task's own.

    Raises:
        InputError: A task without torch model or classes, too few items, or a budget below what the classifier takes.
        SpecError: See `candidates`.
    """
    progress, probe = progress or Silent(), probe or Probe()
    if task.model is None or task.boxes is not None:
        raise InputError("a task to train must have a torch model and classes", where=task.name)
    if budget.cpu_s is not None and budget.cpu_s <= 0:
        raise InputError("a budget of time must be above 0", got=budget.cpu_s, where="--seconds")
    module, lesson = task.model(progress), lesson_of(task, batch)
    model = read_model(module, task.example())
    chosen, home = candidates(model, layers, ratios), cache / "schemes"
    first, labels = lesson.batches[0]
    inputs = tuple(torch.from_numpy(first[name]) for name in model.inputs)
    costs = measure_costs(model, chosen, optimiser, (inputs, torch.from_numpy(labels)), home, progress)
    nothing = [0.0] * len(chosen.depths), [0.0] * len(chosen.slices)
    check_budget(costs.table(chosen, *nothing), budget)
    data = probe_set(task, probe, model.inputs, learnt)
    found = measure_contributions(model, chosen, data, probe, home, progress)
    table = costs.table(chosen, found.depth_gains(), found.slice_gains())
    if budget.cpu_s is not None:
        table = calibrate(table, chosen, costs, measured_cpu_s(module, lesson, optimiser), progress)
    outcome = search_scheme(table, budget, costs.predict)
    tried = try_finalists(table, budget, costs.predict, Trials(model, data, home), probe)
    return TaskSearch(outcome, table, found, tried)
