"""Accuracy of training schemes on transfers of real data: full, bias only, sparse, last-k at equal memory, head only.

    python benchmarks/training_transfers.py OUT [--only NAME] [--seeds 3] [--save]

Each transfer begins with published weights and a new classifier, and sees few items of the new task: what a node would
have. Trained in eager PyTorch: the compiled step does the same within 1e-5, which compiling it verifies, but costs an
export for each scheme. Batch norms are folded; Adam, batch 16, rates fall to zero along a cosine. Every method begins
with the new classifier trained alone (Kumar et al., arXiv 2202.10054): one rate then suits all that it trains.

``sparse`` is the published pattern (arXiv 2310.17752: biases of the last half of the blocks, weights of the first
convolution of each; of a six-layer encoder biases of the last three blocks, attention and first linear weights of the
last two). ``last-k`` trains as many whole layers from the end as fit into the memory that the compiler predicts for
``sparse``: intermediate tensors and state, as `tierwise train compile --memory` counts them. ``searched`` is what
`tierwise.training.search` finds within the same memory, by short trainings on items of train and validation.

A seed draws the items, their order and the new classifier. The rate of a method is found with seed 0 by climbing on a
grid of factors of about 3, on the validation split; the test split is answered by the chosen rate only. Each cell
(transfer, method, seed, rate) is one file in OUT; what is there is not done again. ``--save`` writes all that is there
to docs/results/.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from msgspec.structs import replace
from training_items import TRANSFERS, Part, Transfer, read_once
from training_searched import search
from training_transfers_summary import METHODS, Cell, figures, rows

from tierwise._seeds import stream
from tierwise.artifact import Optimiser, Trained
from tierwise.measure import Silent, read_environment
from tierwise.tasks import ResNet, Subject, build_subject
from tierwise.tasks._residual_start import load_cifar_weights
from tierwise.tasks._source import Source
from tierwise.training import Feed, Scheme
from tierwise.training.compiler import Model, predict_step, read_model, resolve
from tierwise.training.compiler._reference import mute
from tierwise.training.search import Budget

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
FIXED = {"full": Scheme(whole="all"), "bias": Scheme(biases="all", whole=1), "head": Scheme(whole=1)}
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
BATCH = 16
ADAM = Optimiser(kind="adam")
HEAD_EPOCHS, HEAD_RATE = 3, 1e-2


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


class Schemes:
    """Every method's scheme and the memory predicted for it; what was predicted stays in ``cells``."""

    def __init__(self, transfer: Transfer, data: Mapping[str, Part], out: Path, cells: Path) -> None:
        self._path = cells / "schemes.json"
        self._kept: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._model = begun(transfer, data, out, 0)
        self._subject, self._batch = transfer.subject, data["train"].take(np.arange(BATCH))

    def of(self, method: str) -> Scheme:
        """The scheme of any method but ``searched``, which must have been put there."""
        if method not in self._kept:
            if method == "last-k":
                self._most_layers()
            else:
                self.put(method, FIXED.get(method) or sparse_scheme(self._subject, self._model))
        return msgspec.convert(self._kept[method][0], Scheme)

    def put(self, method: str, scheme: Scheme) -> int:
        """Predict and keep a scheme; its bytes."""
        if method not in self._kept:
            predicted = predict_step(self._model, resolve(scheme, self._model), ADAM, self._batch)
            self._kept[method] = [msgspec.to_builtins(scheme), predicted.bytes]
            write(self._path, json.dumps(self._kept, indent=1))
        return int(self._kept[method][1])

    def _most_layers(self) -> None:
        """The most whole last layers that fit into the memory of ``sparse``: more layers need more."""
        self.of("sparse")
        budget, rising = self._kept["sparse"][1], range(1, 1 + sum(layer.computes for layer in self._model.layers))
        low, high = 1, max(k for k in rising if self._state_bytes(k) <= budget)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.put(f"last-{middle}", Scheme(whole=middle)) <= budget
            low, high = (middle, high) if fits else (low, middle - 1)
        self.put(f"last-{low}", Scheme(whole=low))
        self._kept["last-k"] = self._kept[f"last-{low}"]
        write(self._path, json.dumps(self._kept, indent=1))

    def _state_bytes(self, last: int) -> int:
        trained = resolve(Scheme(whole=last), self._model)
        return sum(4 * math.prod(one.shape) * (1 + ADAM.slots) for one in trained)


def train(model: Model, trained: tuple[Trained, ...], part: Part, epochs: int, rate: float, seed: int) -> float:
    """Put the trained tensors into ``model``; the loss of the last twenty steps."""
    leaves = {one.name: model.tensors[one.name].detach().clone().requires_grad_() for one in trained}
    tensors = {**{name: tensor.detach() for name, tensor in model.tensors.items()}, **leaves}
    shares = {one.name: _share(leaves[one.name], one) for one in trained if one.channels}
    update = torch.optim.Adam(list(leaves.values()))
    feed, steps, losses = Feed(len(part), BATCH, seed), epochs * len(part) // BATCH, []
    for i in range(steps):
        inputs, labels = part.take(feed.indices(i))
        update.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * i / steps))
        loss = torch.nn.functional.cross_entropy(model(inputs, tensors), labels)
        update.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, kept in shares.items():
            leaves[name].grad *= kept
        update.step()
        losses.append(float(loss.detach()))
    model.tensors.update({name: leaf.detach() for name, leaf in leaves.items()})
    return statistics.mean(losses[-20:])


def _share(weights: torch.Tensor, one: Trained) -> torch.Tensor:
    """One where weights are trained, zero elsewhere: Adam leaves those as they are whose gradient was always zero."""
    share = torch.zeros_like(weights)
    share[:, list(one.channels)] = 1
    return share.detach()


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


def drawn(transfer: Transfer, data: Mapping[str, Part], seed: int) -> Part:
    """The items that a seed learns from."""
    places = stream(seed, "drawn").permutation(len(data["train"]))[: transfer.items]
    return Part({name: a[places] for name, a in data["train"].inputs.items()}, data["train"].labels[places])


def learnt(
    transfer: Transfer, data: Mapping[str, Part], scheme: Scheme, rate: float, seed: int, out: Path
) -> tuple[Model, Cell]:
    """Train once, answer the validation split."""
    begun_s = time.process_time()
    model, part = begun(transfer, data, out, seed), drawn(transfer, data, seed)
    trained = resolve(scheme, model)
    silent = mute(model, trained, part.take(np.arange(4)))
    trained = tuple(one for one in trained if one.name not in silent)
    with_head(model, part, seed, out / "heads" / f"{transfer.classes}-{seed}.npz")
    loss = train(model, trained, part, transfer.epochs, rate, seed)
    return model, {
        "loss": loss,
        "validation": float(right(model, data["validation"]).mean()),
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


class Cells:
    """The trainings of one transfer, each done once; the test split is answered by chosen rates only."""

    def __init__(self, name: str, out: Path) -> None:
        self.transfer, self._name, self._out, self.folder = TRANSFERS[name], name, out, out / "cells" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = read_once(out / "read" / f"{name}.npz", self.transfer.read, out)
        self.schemes = Schemes(self.transfer, self.data, out, self.folder)
        self._models: dict[str, tuple[Path, Model]] = {}

    def begun(self) -> tuple[Model, Part]:
        """Model and items of seed 0, with the classifier that all methods begin with."""
        model, part = begun(self.transfer, self.data, self._out, 0), drawn(self.transfer, self.data, 0)
        with_head(model, part, 0, self._out / "heads" / f"{self.transfer.classes}-0.npz")
        return model, part

    def search(self) -> None:
        """Find the scheme ``searched``, once, under the bytes of ``sparse`` and at its rate."""
        path = self.folder / "searched.json"
        if path.exists():
            return
        place = self.chosen_rate("sparse")
        budget = Budget(bytes=self.schemes.put("sparse", self.schemes.of("sparse")))
        model, part = self.begun()
        held, how = self.data["validation"], replace(ADAM, rate=RATES[place])
        scheme, report = search(model, part, held, budget, how, self.transfer.searched, self.folder / "search")
        self.schemes.put("searched", scheme)
        write(path, json.dumps(report, indent=1))

    def chosen_rate(self, method: str) -> int:
        """Place of the rate that is best on validation with seed 0."""
        path = self.folder / "rates.json"
        kept: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        if method not in kept:
            start = self.transfer.first_rate + (method in ("bias", "head"))
            place = climb(lambda at: self.validation(method, 0, at), start, len(RATES))
            write(path, json.dumps({**kept, method: RATES[place]}))
            return place
        return RATES.index(kept[method])

    def validation(self, method: str, seed: int, place: int) -> float:
        """Accuracy of one training."""
        path = self._path(method, seed, place)
        if not path.exists():
            scheme = self.schemes.of(method)
            model, found = learnt(self.transfer, self.data, scheme, RATES[place], seed, self._out)
            before = self._models.get(method)
            if before is None or _validation(before[0]) < found["validation"]:
                self._models[method] = path, model
            about = {"transfer": self._name, "method": method, "seed": seed, "rate": RATES[place]}
            write(path, json.dumps({**about, **found}, indent=1))
            print(f"{self._name} {method} seed {seed} rate {RATES[place]:g}: {found['validation']:.4f}", flush=True)
        return _validation(path)

    def test(self, method: str, seed: int) -> None:
        """Answer the test split after training at the chosen rate."""
        place = self.chosen_rate(method)
        path = self._path(method, seed, place)
        self.validation(method, seed, place)
        cell: Cell = json.loads(path.read_text(encoding="utf-8"))
        if "right" not in cell:
            known, model = self._models.pop(method, (None, None))
            if known != path or model is None:  # trained before this process began
                model, _ = learnt(self.transfer, self.data, self.schemes.of(method), RATES[place], seed, self._out)
            hits = right(model, self.data["test"])
            cell |= {"test": float(hits.mean()), "right": base64.b64encode(np.packbits(hits)).decode()}
            write(path, json.dumps(cell, indent=1))
        self._models.pop(method, None)

    def _path(self, method: str, seed: int, place: int) -> Path:
        return self.folder / f"{method}_seed{seed}_rate{RATES[place]:g}.json"


def _validation(path: Path) -> float:
    return float(json.loads(path.read_text(encoding="utf-8"))["validation"])


def todo(name: str, out: Path, seeds: int, methods: Sequence[str]) -> None:
    """All cells of a transfer that are not there, seed by seed."""
    cells = Cells(name, out)
    if "searched" in methods:
        cells.search()
    for method in methods:
        cells.schemes.of(method)
    for seed in range(seeds):
        for method in methods:
            cells.test(method, seed)


def write(path: Path, content: str) -> None:
    """All of it or nothing."""
    stage = path.with_suffix(".part")
    stage.write_text(content, encoding="utf-8")
    stage.replace(path)


def summaries(out: Path) -> Iterator[Cell]:
    """One for each transfer of which ``full``, ``sparse`` and ``last-k`` have two seeds at least."""
    for name in TRANSFERS:
        folder = out / "cells" / name
        if not (folder / "rates.json").exists():
            continue
        searched = folder / "searched.json"
        asked = {
            "transfer": name,
            "test_items": len(read_once(out / "read" / f"{name}.npz", TRANSFERS[name].read, out)["test"]),
            "rates": json.loads((folder / "rates.json").read_text()),
            "schemes": json.loads((folder / "schemes.json").read_text()),
            "search": json.loads(searched.read_text()) if searched.exists() else None,
        }
        every = _cells(folder, asked["rates"])
        found = figures(asked, every)
        if len(found["seeds"]) > 1:
            yield {**asked, **found, "cells": every}


def _cells(folder: Path, rates: Mapping[str, float]) -> list[Cell]:
    """All there are; what others than the chosen rate answered of the test split, once, is left out."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*_seed*.json"))]
    for cell in found:
        cell.pop("predicted_bytes", None)
        if cell["rate"] != rates.get(cell["method"]):
            cell.pop("test", None)
            cell.pop("right", None)
    return found


def main() -> None:
    """Do the cells that are not done, or save those that are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="transfers that begin so")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if not asked.save:
        for name in TRANSFERS:
            if name.startswith(asked.only):
                todo(name, asked.out, asked.seeds, asked.methods)
    found = list(summaries(asked.out))
    for one in found:
        print(f"\n{one['transfer']}: seeds {one['seeds']}, {one['test_items']} test items", *rows(one), sep="\n")
    if asked.save:
        environment = msgspec.to_builtins(read_environment())
        done = {one["transfer"] for one in found}
        begun_cells = {name: _cells(asked.out / "cells" / name, {}) for name in TRANSFERS if name not in done}
        content = {"environment": environment, "transfers": found, "unfinished": begun_cells}
        write(RESULTS / "training-transfers.json", json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
