"""Training in 8-bit integers, with and without quantisation-aware scaling, beside floating point, on real transfers.

    python benchmarks/training_int8.py fashion-halves OUT [--seeds 5]
    python benchmarks/training_int8.py cifar10-to-fashion-mnist OUT [--seeds 3]
    python benchmarks/training_int8.py all OUT --save

The published comparison (Lin et al., arXiv 2206.15472, table 1) is repeated in its order: integers by SGD without
scaling, by Adam, by SGD with scaling, and float32 by SGD. All of the model is trained, its classifier in floating
point. ``int8-sgd-scaled-drawn`` stores 8 bits alone: what an update leaves behind the point is drawn, not kept; at the
rate of ``int8-sgd-scaled``.

``fashion-halves``: a ResNet-8 trained here on the last five classes of Fashion-MNIST, at 14x14, learns the first five
from 400 pictures. ``cifar10-to-fashion-mnist``: a ResNet-20 with published weights learns all ten from 400.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import torch
from training_items import TRANSFERS, Part, read_once
from training_transfers import BATCH, Cell, begun, climb, right, with_head, write

from tierwise._errors import InputError
from tierwise._seeds import stream
from tierwise.artifact import Optimiser
from tierwise.measure import Silent, read_environment
from tierwise.tasks import BuiltinTask, ResNet, build_subject, load_task
from tierwise.training import Feed, Scheme
from tierwise.training.compiler import Model, integer_gradients, quantise, read_model, resolve, run_integer
from tierwise.training.compiler._reference import torch_optimiser

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
RATES = tuple(float(f"{m}e{e}") for e in range(-5, 6) for m in (1, 3))
# Where the climb begins.
METHODS = {
    "int8-sgd": 3e-2,
    "int8-adam": 1e-2,
    "int8-sgd-scaled": 3e-2,
    "int8-sgd-scaled-drawn": math.nan,
    "float32-sgd": 3e-2,
}
_HALF = ResNet(depth=8, width=16)
_T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}


def halves(out: Path) -> dict[str, Part]:
    """Fashion-MNIST, pixels averaged by four; splits of the first five classes, and ``before`` of the others."""
    task = load_task(BuiltinTask(name="fashion-mnist"), out / "data", Silent())
    parts = {}
    for split, most in (("train", 12000), ("validation", 2000), ("test", 4000)):
        chosen = task.splits[split].head(most)
        (made,) = task.tensors(chosen.items).values()
        small = made.reshape(len(made), 1, 14, 2, 14, 2).mean((3, 5))
        first = chosen.labels < 5
        parts[split] = Part({"input": small[first]}, chosen.labels[first].astype(np.int64))
        if split == "train":
            parts["before"] = Part({"input": small[~first]}, chosen.labels[~first].astype(np.int64) - 5)
    return parts


def half_start(data: dict[str, Part], out: Path, seed: int) -> Model:
    """Trained on the other classes; with a new classifier."""
    path = out / "heads" / "half.pt"
    if not path.exists():
        torch.manual_seed(0)
        net = build_subject(_HALF, classes=5, channels=1).train()
        update = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        part, feed = data["before"], Feed(len(data["before"]), 64, 0)
        steps = 4 * len(part) // 64
        for i in range(steps):
            inputs, labels = part.take(feed.indices(i))
            update.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * i / steps))
            loss = torch.nn.functional.cross_entropy(net(*inputs), labels)
            update.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            update.step()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    torch.manual_seed(seed)
    net = build_subject(_HALF, classes=5, channels=1)
    kept = torch.load(path, weights_only=True)
    own = {name: kept[name] if "classifier" not in name else tensor for name, tensor in net.state_dict().items()}
    net.load_state_dict(own)
    return read_model(net.eval(), {"input": data["train"].take(np.arange(2))[0][0]})


@dataclass(frozen=True)
class Plan:
    """Where the data and the start come from.

    Attributes:
        read: Splits of the new task.
        start: The start with a new classifier.
        items: Drawn for training.
        epochs: Passes over them.
    """

    read: Callable[[Path], dict[str, Part]]
    start: Callable[[dict[str, Part], Path, int], Model]
    items: int = 400
    epochs: int = 4


_FASHION = TRANSFERS["cifar10-to-fashion-mnist"]
PLANS = {
    "fashion-halves": Plan(halves, half_start),
    "cifar10-to-fashion-mnist": Plan(_FASHION.read, lambda data, out, seed: begun(_FASHION, data, out, seed)),
}


@final
class Batches(Sequence[Any]):
    """One for each step."""

    def __init__(self, part: Part, epochs: int, seed: int) -> None:
        self._part, self._feed = part, Feed(len(part), BATCH, seed)
        self._steps = epochs * len(part) // BATCH

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: Any) -> Any:
        return self._part.take(self._feed.indices(step))


def learnt(method: str, model: Model, part: Part, epochs: int, rate: float, seed: int) -> Any:
    """A model, of floats or of integers, that has learnt ``part``; None where it diverged."""
    batches, trained = Batches(part, epochs, seed), resolve(Scheme(whole="all"), model)
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


def start(name: str, data: dict[str, Part], out: Path, seed: int) -> tuple[Model, Part]:
    """The model with a classifier that was trained alone, and what it learns from."""
    plan = PLANS[name]
    model = plan.start(data, out, seed)
    drawn = stream(seed, "drawn").permutation(len(data["train"]))[: plan.items]
    part = Part({name: a[drawn] for name, a in data["train"].inputs.items()}, data["train"].labels[drawn])
    with_head(model, part, seed, out / "heads" / f"int8-{name}-{seed}.npz")
    return model, part


def run_cell(name: str, method: str, data: dict[str, Part], rate: float, seed: int, out: Path) -> Cell:
    """Train once, answer both splits."""
    begun_s = time.process_time()
    model, part = start(name, data, out, seed)
    after = learnt(method, model, part, PLANS[name].epochs, rate, seed)
    scores = {
        split: 0.0 if after is None else float(right(after, data[split]).mean()) for split in ("validation", "test")
    }
    return {"diverged": after is None, **scores, "cpu_s": time.process_time() - begun_s}


def ratios(name: str, data: dict[str, Part], out: Path) -> Cell:
    """log10 of norm over norm of gradient, of every tensor in the order of the layers: the paper's figure."""
    model, part = start(name, data, out, 0)
    batch = part.take(np.arange(64))
    integers, trained = quantise(model, [batch[0]]), resolve(Scheme(whole="all"), model)
    leaves = {one.name: model.tensors[one.name].detach().requires_grad_() for one in trained}
    loss = torch.nn.functional.cross_entropy(model(batch[0], {**model.tensors, **leaves}), batch[1])
    found = {"float32": dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))}
    for kind, scaled in (("int8", False), ("int8-scaled", True)):
        found[kind] = integer_gradients(integers, integers.tensors, trained, batch, scaled=scaled)[1]
    tensors = {"float32": model.tensors, "int8": integers.tensors, "int8-scaled": integers.tensors}
    sizes = {kind: {n: float(tensors[kind][n].detach().norm()) for n in grads} for kind, grads in found.items()}
    return {
        kind: {
            n: math.log10(sizes[kind][n] / float(g.norm())) for n, g in grads.items() if sizes[kind][n] * g.norm() > 0
        }
        for kind, grads in found.items()
    }


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
    parser.add_argument("plan", choices=(*PLANS, "all"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = {}
    for name in PLANS if asked.plan == "all" else (asked.plan,):
        cells = asked.out / "int8" / name
        cells.mkdir(parents=True, exist_ok=True)
        if not asked.save:
            do(name, asked.out, cells, asked.seeds)
        if (cells / "rates.json").exists():
            found[name] = summary(cells)
    for name, one in found.items():
        print(f"{name}, {len(one['seeds'])} seeds")
        for method, row in one["methods"].items():
            mean, low, high = row["minus_float32_points"]
            told = f"{mean:+.2f} points of float32 [{low:+.2f}, {high:+.2f}]"
            print(f"  {method:<24}{100 * row['test']:6.2f} %  rate {row['rate']:<6g} {told}")
    if asked.save:
        environment = msgspec.to_builtins(read_environment())
        write(RESULTS / "training-int8.json", json.dumps({"environment": environment, "plans": found}) + "\n")


def do(name: str, out: Path, cells: Path, seeds: int) -> None:
    """All cells; seed 0 and the choice of rates first."""
    data = read_once(out / "read" / f"int8-{name}.npz", PLANS[name].read, out)
    if not (cells / "ratios.json").exists():
        write(cells / "ratios.json", json.dumps(ratios(name, data, out)))

    def cell(method: str, seed: int, place: int) -> Cell:
        path = cells / f"{method}_seed{seed}_rate{RATES[place]:g}.json"
        if not path.exists():
            found = run_cell(name, method, data, RATES[place], seed, out)
            write(path, json.dumps({"method": method, "seed": seed, "rate": RATES[place], **found}, indent=1))
            print(f"{method} seed {seed} rate {RATES[place]:g}: validation {found['validation']:.4f}", flush=True)
        read: Cell = json.loads(path.read_text(encoding="utf-8"))
        return read

    chosen: dict[str, int] = {}
    for method, rate in METHODS.items():
        if method == "int8-sgd-scaled-drawn":
            chosen[method] = chosen["int8-sgd-scaled"]
            cell(method, 0, chosen[method])
            continue
        chosen[method] = climb(lambda place, m=method: cell(m, 0, place)["validation"], RATES.index(rate), len(RATES))
    write(cells / "rates.json", json.dumps({m: RATES[place] for m, place in chosen.items()}))
    for seed in range(1, seeds):
        for method, place in chosen.items():
            cell(method, seed, place)


if __name__ == "__main__":
    main()
