"""The scheme that `tierwise.training.search` finds for a transfer of `training_transfers.py`; not run by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from training_items import Part, Searched

from tierwise.artifact import Optimiser
from tierwise.measure import Silent
from tierwise.training import Scheme
from tierwise.training.compiler import Model, reach
from tierwise.training.search import (
    Budget,
    Candidates,
    Probe,
    ProbeSet,
    Trials,
    best_tried,
    candidates,
    measure_contributions,
    measure_costs,
    try_finalists,
)

BATCH = 16


def search(
    model: Model, part: Part, held: Part, budget: Budget, how: Optimiser, asked: Searched, home: Path
) -> tuple[Scheme, dict[str, Any]]:
    """The scheme that learns most in short trainings within ``budget``, and what was measured on the way.

    Args:
        model: With the classifier that all methods begin with.
        part: Learnt from.
        held: Measured on.
        budget: Of one step.
        how: Of the step, with its rate.
        asked: What may be chosen.
        home: Holds what was measured; nothing there is measured again.
    """
    chosen = candidates(model, asked.layers, asked.ratios)
    depths = asked.depths or tuple(depth for depth in chosen.depths if depth <= max(d for _, _, d in chosen.slices))
    slices = [(layer, ratio, min(d for d in depths if d >= reach(model, layer))) for layer, ratio, _ in chosen.slices]
    chosen = Candidates(depths, tuple(slices))
    costs = measure_costs(model, chosen, how, part.take(np.arange(BATCH)), home, Silent())
    print(f"costs of {len(chosen.depths)} depths and {len(chosen.slices)} slices", flush=True)
    chosen, costs = costs.within(chosen, budget)
    data = ProbeSet(*part.take(np.arange(len(part))), *held.take(np.arange(len(held))))
    probe = Probe(items=len(part), held=len(held), steps=asked.steps, batch=BATCH, optimiser=how, renew=False)
    found = measure_contributions(model, chosen, data, probe, home, Silent())
    print("contributions", [round(gain, 3) for gain in (*found.depth_gains(), *found.slice_gains())], flush=True)
    table = costs.table(chosen, found.depth_gains(), found.slice_gains())
    tried = try_finalists(table, budget, costs.predict, Trials(model, data, home), probe)
    rows = [
        {
            "scheme": msgspec.to_builtins(one.found.scheme),
            "gain": one.found.gain,
            "bytes": one.found.captured_bytes,
            "accuracy": one.accuracy,
        }
        for one in tried
    ]
    report = {"table": msgspec.to_builtins(table), "probe": msgspec.to_builtins(probe), "tried": rows}
    return best_tried(tried).found.scheme, report
