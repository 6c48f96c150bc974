"""Training in 8-bit integers, with and without quantisation-aware scaling, beside floating point, on a real transfer.

    python benchmarks/training_int8.py OUT [--seeds 3] [--save]

The published comparison (Lin et al., arXiv 2206.15472, table 1) is repeated in its order: integers by SGD without
scaling, by Adam, by SGD with scaling, and float32 by SGD. A ResNet-20 with published weights for CIFAR-10 learns
Fashion-MNIST (in three equal channels) from 600 pictures; all of it is trained, the classifier stays in floating point.
``int8-sgd-scaled-drawn`` stores 8 bits alone: what an update leaves behind the point is drawn, not kept.

Every method begins with the same classifier, trained alone in float32, and takes SGD without momentum (or Adam), batch
16, rates falling along a cosine. Rates are found with seed 0 by climbing on a grid of factors of about 3 on the
validation split; the test split is only reported. A cell is one file in OUT; ``--save`` writes all to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import torch
from training_transfers import (
    BATCH,
    HEAD_EPOCHS,
    HEAD_RATE,
    TRANSFERS,
    Cell,
    Part,
    begun,
    right,
    train,
    write,
)

from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.artifact import Optimiser
from tierwise.measure import read_environment
from tierwise.training import Feed, Scheme
from tierwise.training.compiler import Model, integer_gradients, quantise, resolve, run_integer
from tierwise.training.compiler._reference import torch_optimiser

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
TRANSFER = replace(TRANSFERS["cifar10-to-fashion-mnist"], items=600, epochs=5)
RATES = tuple(float(f"{m}e{e}") for e in range(-5, 6) for m in (1, 3))
# Where the climb begins.
METHODS = {
    "int8-sgd": 3e-2,
    "int8-adam": 1e-2,
    "int8-sgd-scaled": 3e-2,
    "int8-sgd-scaled-drawn": 3e-2,
    "float32-sgd": 3e-2,
}
_T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}


@final
class Batches(Sequence[Any]):
    """One for each step."""

    def __init__(self, part: Part, seed: int) -> None:
        self._part, self._feed = part, Feed(len(part), BATCH, seed)
        self._steps = TRANSFER.epochs * len(part) // BATCH

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: Any) -> Any:
        return self._part.take(self._feed.indices(step))


def learnt(method: str, model: Model, part: Part, rate: float, seed: int) -> Any:
    """A model, of floats or of integers, that has learnt ``part``; None where it diverged."""
    batches, trained = Batches(part, seed), resolve(Scheme(whole="all"), model)
    how = Optimiser(kind="adam" if "adam" in method else "sgd", rate=rate)
    falling = [0.5 * (1 + math.cos(math.pi * i / len(batches))) for i in range(len(batches))]
    if not method.startswith("int8"):
        return model if descend(model, how, batches, falling) else None
    integers = quantise(model, [part.take(np.arange(64))[0]])
    try:
        course = run_integer(
            integers,
            trained,
            how,
            batches,
            len(batches),
            scaled="scaled" in method,
            fraction="drawn" if "drawn" in method else "kept",
            share=falling.__getitem__,
            seed=seed,
        )
    except InputError:
        return None
    integers.tensors.update(course.finals)
    return integers


def descend(model: Model, how: Optimiser, batches: Batches, falling: Sequence[float]) -> bool:
    """Floating point; whether the loss stayed finite."""
    leaves = {one.name: model.tensors[one.name].detach().clone() for one in resolve(Scheme(whole="all"), model)}
    update = torch_optimiser(how, [leaf.requires_grad_() for leaf in leaves.values()])
    for i in range(len(batches)):
        inputs, labels = batches[i]
        loss = torch.nn.functional.cross_entropy(model(inputs, {**model.tensors, **leaves}), labels)
        if not math.isfinite(float(loss.detach())):
            return False
        update.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        update.param_groups[0]["lr"] = how.rate * falling[i]
        update.step()
    model.tensors.update({name: leaf.detach() for name, leaf in leaves.items()})
    return True


def start(data: dict[str, Part], out: Path, seed: int) -> tuple[Model, Part]:
    """The model with a classifier that was trained alone, and what it learns from."""
    model = begun(TRANSFER, data, out, seed)
    drawn = stream(seed, "drawn").permutation(len(data["train"]))[: TRANSFER.items]
    part = Part({name: a[drawn] for name, a in data["train"].inputs.items()}, data["train"].labels[drawn])
    train(model, resolve(Scheme(whole=1), model), part, HEAD_EPOCHS, HEAD_RATE, seed)
    return model, part


def run_cell(method: str, data: dict[str, Part], rate: float, seed: int, out: Path) -> Cell:
    """Train once, answer both splits."""
    begun_s = time.process_time()
    model, part = start(data, out, seed)
    after = learnt(method, model, part, rate, seed)
    scores = {
        split: 0.0 if after is None else float(right(after, data[split]).mean()) for split in ("validation", "test")
    }
    return {"diverged": after is None, **scores, "cpu_s": time.process_time() - begun_s}


def ratios(data: dict[str, Part], out: Path) -> Cell:
    """log10 of norm over norm of gradient, of every tensor in the order of the layers: the paper's figure."""
    model, part = start(data, out, 0)
    batch = part.take(np.arange(64))
    integers, trained = quantise(model, [batch[0]]), resolve(Scheme(whole="all"), model)
    leaves = {one.name: model.tensors[one.name].detach().requires_grad_() for one in trained}
    loss = torch.nn.functional.cross_entropy(model(batch[0], {**model.tensors, **leaves}), batch[1])
    found = {"float32": dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))}
    for name, scaled in (("int8", False), ("int8-scaled", True)):
        found[name] = integer_gradients(integers, integers.tensors, trained, batch, scaled=scaled)[1]
    tensors = {"float32": model.tensors, "int8": integers.tensors, "int8-scaled": integers.tensors}
    sizes = {kind: {n: float(tensors[kind][n].detach().norm()) for n in grads} for kind, grads in found.items()}
    return {
        kind: {n: math.log10(sizes[kind][n] / float(g.norm())) for n, g in grads.items() if sizes[kind][n] * g.norm() > 0}
        for kind, grads in found.items()
    }


def climb(validation: Any, place: int) -> int:
    """As that of the transfers, on this grid."""
    seen = {place: validation(place)}
    while True:
        for beside in (place + 1, place - 1):
            if beside in range(len(RATES)) and beside not in seen:
                seen[beside] = validation(beside)
                if seen[beside] > seen[place]:
                    place = beside
                    break
        else:
            return place


def summary(out: Path) -> Cell:
    """Test accuracies over seeds at the chosen rates, and paired differences to float32."""
    rates = json.loads((out / "rates.json").read_text())
    every = [json.loads(path.read_text()) for path in sorted(out.glob("*_seed*.json"))]
    kept = {m: {c["seed"]: c for c in every if c["method"] == m and c["rate"] == rates[m]} for m in rates}
    seeds = sorted(set.intersection(*(set(found) for found in kept.values())))
    rows = {}
    for method, found in kept.items():
        gaps = [100 * (found[s]["test"] - kept["float32-sgd"][s]["test"]) for s in seeds]
        half = _T95[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
        mean = statistics.mean(gaps)
        rows[method] = {
            "rate": rates[method],
            "test": statistics.mean(found[s]["test"] for s in seeds),
            "test_of_seeds": [found[s]["test"] for s in seeds],
            "minus_float32_points": [mean, mean - half, mean + half],
            "cpu_s": statistics.median(found[s]["cpu_s"] for s in seeds),
        }
    return {
        "seeds": seeds,
        "methods": rows,
        "log10_ratios": json.loads((out / "ratios.json").read_text()),
        "cells": every,
    }


def main() -> None:
    """Do the cells that are not done, or save those that are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cells = asked.out / "int8"
    cells.mkdir(parents=True, exist_ok=True)
    if not asked.save:
        do(asked.out, cells, asked.seeds)
    found = summary(cells)
    for method, row in found["methods"].items():
        mean, low, high = row["minus_float32_points"]
        told = f"{mean:+.2f} points of float32 [{low:+.2f}, {high:+.2f}]"
        print(f"{method:<24}{100 * row['test']:6.2f} %  rate {row['rate']:<6g} {told}")
    if asked.save:
        environment = msgspec.to_builtins(read_environment())
        write(RESULTS / "training-int8.json", json.dumps({"environment": environment, **found}) + "\n")


def do(out: Path, cells: Path, seeds: int) -> None:
    """All cells; seed 0 and the choice of rates first."""
    data = TRANSFER.read(out)
    data["validation"] = Part(
        {n: a[:500] for n, a in data["validation"].inputs.items()}, data["validation"].labels[:500]
    )
    if not (cells / "ratios.json").exists():
        write(cells / "ratios.json", json.dumps(ratios(data, out)))

    def cell(method: str, seed: int, place: int) -> Cell:
        path = cells / f"{method}_seed{seed}_rate{RATES[place]:g}.json"
        if not path.exists():
            found = run_cell(method, data, RATES[place], seed, out)
            write(path, json.dumps({"method": method, "seed": seed, "rate": RATES[place], **found}, indent=1))
            print(f"{method} seed {seed} rate {RATES[place]:g}: validation {found['validation']:.4f}", flush=True)
        read: Cell = json.loads(path.read_text(encoding="utf-8"))
        return read

    chosen = {}
    for method, rate in METHODS.items():
        chosen[method] = climb(lambda place, m=method: cell(m, 0, place)["validation"], RATES.index(rate))
    write(cells / "rates.json", json.dumps({m: RATES[place] for m, place in chosen.items()}))
    for seed in range(1, seeds):
        for method, place in chosen.items():
            cell(method, seed, place)


if __name__ == "__main__":
    main()
