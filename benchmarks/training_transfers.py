"""Accuracy of training schemes on transfers of real data: full, bias only, sparse, last-k at equal memory, head only.

    python benchmarks/training_transfers.py OUT [--only NAME] [--seeds 3] [--save]

Each transfer begins with published weights and a new classifier, and sees few items of the new task: what a node would
have. Trained in eager PyTorch: the compiled step does the same within 1e-5, which compiling it verifies, but costs an
export for each scheme. Batch norms are folded; Adam, batch 16, rates fall to zero along a cosine. Every method begins
with the new classifier trained alone (Kumar et al., arXiv 2202.10054): one rate then suits all that it trains.

``sparse`` is the published pattern (arXiv 2310.17752: biases of the last half of the blocks, weights of the first
convolution of each; of a six-layer encoder biases of the last three blocks, attention and first linear weights of the
last two). ``last-k`` trains as many whole layers from the end as fit into the memory that the compiler predicts for
``sparse``: intermediate tensors and state, as `tierwise train compile --memory` counts them.

A seed draws the items, their order and the new classifier. The rate of a method is found with seed 0 by climbing on a
grid of factors of about 3, on the validation split; the test split is only reported. Each cell (transfer, method,
seed, rate) is one file in OUT; what is there is not done again. ``--save`` writes all that is there to docs/results/.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from training_items import TRANSFERS, Part, Transfer, read_once

from tierwise._seeds import stream
from tierwise.artifact import Optimiser, Trained
from tierwise.measure import Silent, read_environment
from tierwise.tasks import ResNet, Subject, build_subject
from tierwise.tasks._residual_start import load_cifar_weights
from tierwise.tasks._source import Source
from tierwise.training import Feed, Scheme
from tierwise.training.compiler import (
    Model,
    capture_step,
    divide,
    read_model,
    resolve,
    simplify,
)
from tierwise.training.compiler._compile import _prefix_again
from tierwise.training.compiler._parts import plan_parts
from tierwise.training.compiler._reference import mute

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
METHODS = ("full", "sparse", "last-k", "bias", "head")
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
BATCH = 16
HEAD_EPOCHS, HEAD_RATE = 3, 1e-2
Cell = dict[str, Any]
_T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}


def sparse_scheme(subject: Subject, model: Model) -> Scheme:
    """The published pattern on a ResNet of nine blocks, or an encoder of six."""
    names = [layer.name for layer in model.layers if layer.computes]
    if isinstance(subject, ResNet):
        reached, weights = ("blocks.4.", [f"blocks.{i}.layers.0.conv" for i in range(4, 9)])
    else:
        block = "encoder.encoder.layer"
        parts = ("self.query", "self.key", "self.value", "output.dense")
        weights = [f"{block}.{i}.attention.{part}" for i in (4, 5) for part in parts]
        weights += [f"{block}.{i}.intermediate.dense" for i in (4, 5)]
        reached = f"{block}.3."
    first = next(i for i, name in enumerate(names) if name.startswith(reached))
    return Scheme(biases=len(names) - first, whole=1, weights={name: 1.0 for name in weights})


def begun(transfer: Transfer, data: Mapping[str, Part], out: Path, seed: int) -> Model:
    """The start with a new classifier, norms folded."""
    torch.manual_seed(seed)
    net = build_subject(transfer.subject, classes=transfer.classes)
    if isinstance(transfer.subject, ResNet):
        classifier = {name: tensor.clone() for name, tensor in net.state_dict().items() if "classifier" in name}
        load_cifar_weights(net, transfer.subject.depth, Source(out / "data", Silent()))
        net.load_state_dict({**net.state_dict(), **classifier})
    inputs, _ = data["train"].take(np.arange(2))
    return read_model(net.eval(), dict(zip(data["train"].inputs, inputs, strict=True)))


def predicted_bytes(model: Model, scheme: Scheme, batch: Any) -> int:
    """What ``tierwise train compile --memory`` bounds: peak beyond the frozen weights, and the state."""
    how = Optimiser(kind="adam")
    trained = resolve(scheme, model)
    joint = capture_step(model, trained, how, *batch)
    simplify(joint.graph)
    prefix, step = divide(joint)
    parts = plan_parts(step, prefix, BATCH, partial(_prefix_again, model, trained, how, batch))
    peaks = [0 if plan is None else plan.timeline.peak_bytes for plan in (parts.step_plan, parts.prefix_plan)]
    state = sum(4 * math.prod(one.shape) * (1 + how.slots) for one in trained)
    return max(peaks) + parts.border_bytes + state


def schemes(transfer: Transfer, data: Mapping[str, Part], out: Path, cells: Path) -> dict[str, tuple[Scheme, int]]:
    """Every method's scheme and the memory predicted for it."""
    path = cells / "schemes.json"
    if not path.exists():
        model = begun(transfer, data, out, 0)
        batch = data["train"].take(np.arange(BATCH))
        made = {
            "full": Scheme(whole="all"),
            "sparse": sparse_scheme(transfer.subject, model),
            "bias": Scheme(biases="all", whole=1),
            "head": Scheme(whole=1),
        }
        sizes = {name: predicted_bytes(model, scheme, batch) for name, scheme in made.items()}
        low, high = 1, sum(layer.computes for layer in model.layers)
        while low < high:  # the most layers that fit: more layers need more
            middle = (low + high + 1) // 2
            fits = predicted_bytes(model, Scheme(whole=middle), batch) <= sizes["sparse"]
            low, high = (middle, high) if fits else (low, middle - 1)
        made["last-k"] = Scheme(whole=low)
        sizes["last-k"] = predicted_bytes(model, made["last-k"], batch)
        write(path, json.dumps({name: [msgspec.to_builtins(made[name]), sizes[name]] for name in METHODS}, indent=1))
    read = json.loads(path.read_text(encoding="utf-8"))
    return {name: (msgspec.convert(scheme, Scheme), size) for name, (scheme, size) in read.items()}


def train(model: Model, trained: tuple[Trained, ...], part: Part, epochs: int, rate: float, seed: int) -> float:
    """Put the trained tensors into ``model``; the loss of the last twenty steps."""
    leaves = {one.name: model.tensors[one.name].detach().clone().requires_grad_() for one in trained}
    tensors = {**{name: tensor.detach() for name, tensor in model.tensors.items()}, **leaves}
    update = torch.optim.Adam(list(leaves.values()))
    feed, steps, losses = Feed(len(part), BATCH, seed), epochs * len(part) // BATCH, []
    for i in range(steps):
        inputs, labels = part.take(feed.indices(i))
        update.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * i / steps))
        loss = torch.nn.functional.cross_entropy(model(inputs, tensors), labels)
        update.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        update.step()
        losses.append(float(loss.detach()))
    model.tensors.update({name: leaf.detach() for name, leaf in leaves.items()})
    return statistics.mean(losses[-20:])


def with_head(model: Model, part: Part, seed: int, path: Path) -> None:
    """Train the classifier alone, or take it from where that was kept: all methods begin with the same."""
    trained = resolve(Scheme(whole=1), model)
    if path.exists():
        with np.load(path) as kept:
            model.tensors.update({one.name: torch.from_numpy(kept[one.name]) for one in trained})
        return
    train(model, trained, part, HEAD_EPOCHS, HEAD_RATE, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_suffix(".part.npz")
    np.savez(stage, **{one.name: model.tensors[one.name].numpy() for one in trained})
    stage.replace(path)


def right(model: Model, part: Part) -> npt.NDArray[np.bool_]:
    """Which items are answered rightly."""
    found = []
    with torch.no_grad():
        for start in range(0, len(part), 100):
            inputs, labels = part.take(np.arange(start, min(start + 100, len(part))))
            found.append((model(inputs, model.tensors).argmax(1) == labels).numpy())
    return np.concatenate(found)


def run_cell(transfer: Transfer, data: Mapping[str, Part], scheme: Scheme, rate: float, seed: int, out: Path) -> Cell:
    """Train once, answer both splits."""
    begun_s = time.process_time()
    model = begun(transfer, data, out, seed)
    drawn = stream(seed, "drawn").permutation(len(data["train"]))[: transfer.items]
    part = Part({name: a[drawn] for name, a in data["train"].inputs.items()}, data["train"].labels[drawn])
    trained = resolve(scheme, model)
    silent = mute(model, trained, part.take(np.arange(4)))
    trained = tuple(one for one in trained if one.name not in silent)
    with_head(model, part, seed, out / "heads" / f"{transfer.classes}-{seed}.npz")
    loss = train(model, trained, part, transfer.epochs, rate, seed)
    hits = right(model, data["test"])
    return {
        "loss": loss,
        "validation": float(right(model, data["validation"]).mean()),
        "test": float(hits.mean()),
        "right": base64.b64encode(np.packbits(hits)).decode(),
        "trained_values": sum(math.prod(one.shape) for one in trained),
        "cpu_s": time.process_time() - begun_s,
    }


def climb(validation: Callable[[int], float], place: int, rates: int) -> int:
    """Place of the best of so many rates, from ``place`` on to where it gets no better on either side."""
    seen = {place: validation(place)}
    while True:
        for beside in (place + 1, place - 1):
            if beside in range(rates) and beside not in seen:
                seen[beside] = validation(beside)
                if seen[beside] > seen[place]:
                    place = beside
                    break
        else:
            return place


def todo(name: str, out: Path, seeds: int) -> None:
    """All cells of a transfer that are not there; seed 0 and the choice of rates first."""
    transfer, cells = TRANSFERS[name], out / "cells" / name
    cells.mkdir(parents=True, exist_ok=True)
    data = read_once(out / "read" / f"{name}.npz", transfer.read, out)
    plans = schemes(transfer, data, out, cells)

    def cell(method: str, seed: int, place: int) -> Cell:
        path = cells / f"{method}_seed{seed}_rate{RATES[place]:g}.json"
        if not path.exists():
            scheme, predicted = plans[method]
            found = run_cell(transfer, data, scheme, RATES[place], seed, out)
            about = {"transfer": name, "method": method, "seed": seed, "rate": RATES[place]}
            write(path, json.dumps({**about, "predicted_bytes": predicted, **found}, indent=1))
            print(
                f"{name} {method} seed {seed} rate {RATES[place]:g}: validation {found['validation']:.4f}", flush=True
            )
        read: Cell = json.loads(path.read_text(encoding="utf-8"))
        return read

    starts = {m: transfer.first_rate + (m in ("bias", "head")) for m in METHODS}
    chosen = {m: climb(lambda place, m=m: cell(m, 0, place)["validation"], starts[m], len(RATES)) for m in METHODS}  # type: ignore[misc]
    write(cells / "rates.json", json.dumps({m: RATES[place] for m, place in chosen.items()}))
    for seed in range(1, seeds):
        for method in METHODS:
            cell(method, seed, chosen[method])


def write(path: Path, content: str) -> None:
    """All of it or nothing."""
    stage = path.with_suffix(".part")
    stage.write_text(content, encoding="utf-8")
    stage.replace(path)


def paired(mine: list[Cell], other: list[Cell], items: int) -> Cell:
    """Difference of test accuracies in points: over seeds (Student's t), and over items (means over seeds; normal)."""
    gaps = [100 * (a["test"] - b["test"]) for a, b in zip(mine, other, strict=True)]
    half = _T95[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    bits = [
        [np.unpackbits(np.frombuffer(base64.b64decode(c["right"]), np.uint8))[:items] for c in cs]
        for cs in (mine, other)
    ]
    each = 100 * (np.mean(bits[0], axis=0) - np.mean(bits[1], axis=0))
    by_items = 1.96 * float(each.std(ddof=1)) / math.sqrt(items)
    mean = statistics.mean(gaps)
    return {"points": mean, "over_seeds": [mean - half, mean + half], "over_items": [mean - by_items, mean + by_items]}


def summaries(out: Path) -> Iterator[Cell]:
    """One for each transfer of which all methods have the same seeds."""
    for name in TRANSFERS:
        folder = out / "cells" / name
        if not (folder / "rates.json").exists():
            continue
        rates = json.loads((folder / "rates.json").read_text())
        every = _cells(folder)
        kept = {m: {c["seed"]: c for c in every if c["method"] == m and c["rate"] == rates[m]} for m in METHODS}
        seeds = sorted(set.intersection(*(set(found) for found in kept.values())))
        cells = {m: [kept[m][seed] for seed in seeds] for m in METHODS}
        items = len(read_once(out / "read" / f"{name}.npz", TRANSFERS[name].read, out)["test"])
        yield {
            "transfer": name,
            "seeds": seeds,
            "test_items": items,
            "schemes": json.loads((folder / "schemes.json").read_text()),
            "methods": {
                m: {
                    "rate": rates[m],
                    "test": statistics.mean(c["test"] for c in found),
                    "test_of_seeds": [c["test"] for c in found],
                    "predicted_bytes": found[0]["predicted_bytes"],
                    "trained_values": found[0]["trained_values"],
                    "cpu_s": statistics.median(c["cpu_s"] for c in found),
                }
                for m, found in cells.items()
            },
            "sparse_minus": {m: paired(cells["sparse"], cells[m], items) for m in METHODS if m != "sparse"},
            "cells": every,
        }


def _cells(folder: Path) -> list[Cell]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*_seed*.json"))]


def show(found: Cell) -> None:
    """A table of one transfer."""
    print(f"\n{found['transfer']}: {len(found['seeds'])} seeds, {found['test_items']} test items")
    for method, row in found["methods"].items():
        told = f"  {method:<8}{100 * row['test']:6.2f} %  {row['predicted_bytes'] / 1e6:7.2f} MB  rate {row['rate']:g}"
        gap = found["sparse_minus"].get(method)
        if gap is not None:
            told += f"  sparse {gap['points']:+.2f} points, over seeds {_range(gap['over_seeds'])}"
            told += f", over items {_range(gap['over_items'])}"
        print(told)


def _range(ends: list[float]) -> str:
    return f"[{ends[0]:+.2f}, {ends[1]:+.2f}]"


def main() -> None:
    """Do the cells that are not done, or save those that are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="transfers that begin so")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if not asked.save:
        for name in TRANSFERS:
            if name.startswith(asked.only):
                todo(name, asked.out, asked.seeds)
    found = list(summaries(asked.out))
    for one in found:
        show(one)
    if asked.save:
        environment = msgspec.to_builtins(read_environment())
        done = {one["transfer"] for one in found}
        begun_cells = {name: _cells(asked.out / "cells" / name) for name in TRANSFERS if name not in done}
        content = {"environment": environment, "transfers": found, "unfinished": begun_cells}
        write(RESULTS / "training-transfers.json", json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
