"""CPU time of a training step: eager PyTorch, torch.compile, and every backend of a compiled step, in turn.

    python benchmarks/training_step.py --prepare --model mobilenet --batch 1 [--packages]
    python benchmarks/training_step.py --model mobilenet --batch 1 [--rounds 15] [--save]

One thread. Two commands, since compiling takes minutes and measuring must be alone on the machine: the first keeps
the compiled steps in a folder (``--folder``). In every round of the second each row takes one step that does not count
and one that does, in random order, so that a machine that changes its pace changes it for all; ratios of medians have
bootstrap intervals over the rounds. Plain SGD, whose update costs least and hides least. Weights and inputs are
random: neither decides how long it takes.

Rows: ``eager norms``: all of the model, batch norms in training mode, as a PyTorch user would fine-tune it;
``eager full``: the same with batch norms folded into convolutions; ``eager sparse``: folded, and the scheme of the
compiled steps; ``known``: these for items that came before, of which the frozen part is kept; ``torch.compile``:
``eager full`` with forward and backward compiled, only with ``--packages``.
``--save`` puts the figures and their environment into docs/results/training-step.json, beside those of other models.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from tierwise.artifact import Optimiser, TensorInput, TensorSpec, open_artifact
from tierwise.measure import Samples, block, bootstrap, read_environment
from tierwise.tasks import Bert, MobileNetV2, ResNet, build_subject
from tierwise.training import Scheme, TrainingSession
from tierwise.training.compiler import Lesson, compile_training, read_model, resolve

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
CLASSES, RATE = 10, 1e-3
FULL = Scheme(whole="all")
# Biases and the first 1x1 weights of the last seven blocks; of the encoder biases of the last half, attention and the
# first linear layer of the last two (PockEngine, arXiv 2310.17752).
BLOCKS = Scheme(biases=23, whole=1, weights={f"blocks.{i}.expand.conv": 1.0 for i in range(10, 17)})
NAMES = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
ENCODER = Scheme(
    biases=14,
    whole=1,
    weights={f"encoder.encoder.layer.{i}.{name}": 1.0 for i in (2, 3) for name in (*NAMES, "intermediate.dense")},
)
MODELS: dict[str, tuple[Any, int, Scheme]] = {
    # What is trained, pixels or tokens, the sparse scheme.
    "mobilenet": (MobileNetV2(width_frac=1.0, reduction=32), 128, BLOCKS),
    "mobilenet-035": (MobileNetV2(width_frac=0.35, reduction=32), 128, BLOCKS),
    "resnet-20": (ResNet(depth=20, width=16), 32, Scheme(biases=7, whole=1)),
    "bert": (Bert(layers=4, hidden=512, head_width=64, vocabulary=30_522, max_length=128), 128, ENCODER),
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    channels = 1 if name == "bert" else 3
    return build_subject(MODELS[name][0], channels=channels, classes=CLASSES).eval()


def batch_of(name: str, items: int) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    rng, size = np.random.default_rng(0), MODELS[name][1]
    labels = rng.integers(0, CLASSES, items)
    if name == "bert":
        ids = rng.integers(1, 30_522, (items, size))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}, labels
    return {"input": rng.standard_normal((items, 3, size, size)).astype(np.float32)}, labels


def prepare(name: str, items: int, folder: Path, packages: bool, sparse_only: bool) -> None:
    """Compile what is missing in ``folder``."""
    inputs, labels = batch_of(name, items)
    tensors = tuple(
        TensorSpec(name=n, dtype="FP32" if a.dtype == np.float32 else "INT64", shape=(-1, *a.shape[1:]))
        for n, a in inputs.items()
    )
    names = tuple(f"c{i}" for i in range(CLASSES))
    lesson = Lesson(name, TensorInput(tensors=tensors), names, {}, [(inputs, labels)], name)
    wanted = [("sparse", "onnxruntime"), ("full", "onnxruntime")]
    wanted += [("sparse", "hybrid"), ("sparse", "aotinductor"), ("full", "aotinductor")] if packages else []
    for kind, backend in [one for one in wanted if one[0] == "sparse" or not sparse_only]:
        place = folder / f"{name}-{items}-{kind}-{backend}"
        if place.exists():
            continue
        scheme = MODELS[name][2] if kind == "sparse" else FULL
        began_s = time.perf_counter()
        compile_training(model_of(name), lesson, scheme, Optimiser(kind="sgd", rate=RATE), place, backend=backend)
        print(f"{place.name}: compiled in {time.perf_counter() - began_s:.0f} s", flush=True)


def eager(net: Callable[[], torch.Tensor], leaves: list[torch.Tensor], labels: torch.Tensor) -> Callable[[], object]:
    optimiser = torch.optim.SGD(leaves, lr=RATE)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(), labels).backward()
        optimiser.step()

    return step


def folded(name: str, items: int, scheme: Scheme) -> Callable[[], object]:
    """A step of the captured model, norms folded, in eager PyTorch."""
    arrays, labels = batch_of(name, items)
    inputs = {n: torch.from_numpy(a) for n, a in arrays.items()}
    model = read_model(model_of(name), {n: torch.cat([t, t]) if len(t) == 1 else t for n, t in inputs.items()})
    leaves = {one.name: model.tensors[one.name].detach().clone().requires_grad_() for one in resolve(scheme, model)}
    tensors = {**{n: t.detach() for n, t in model.tensors.items()}, **leaves}
    given = tuple(inputs.values())
    return eager(lambda: model(given, tensors), list(leaves.values()), torch.from_numpy(labels))


def rows_of(name: str, items: int, folder: Path, compiled: bool) -> dict[str, Callable[[], object]]:
    arrays, labels = batch_of(name, items)
    net = model_of(name).train()
    inputs, given = {n: torch.from_numpy(a) for n, a in arrays.items()}, torch.from_numpy(labels)
    rows: dict[str, Callable[[], object]] = {
        "eager norms": eager(lambda: net(**inputs), list(net.parameters()), given),
        "eager full": folded(name, items, FULL),
        "eager sparse": folded(name, items, MODELS[name][2]),
    }
    if compiled:
        other: Any = torch.compile(model_of(name).eval())
        rows["torch.compile full"] = eager(lambda: other(**inputs), list(other.parameters()), given)
    for place in sorted(folder.glob(f"{name}-{items}-*")):
        kind, backend = place.name.removeprefix(f"{name}-{items}-").split("-")
        session = TrainingSession(open_artifact(place), backend=backend, cache_bytes=1 << 26)  # type: ignore[arg-type]
        rows[f"{backend} {kind}"] = lambda session=session: session.step(arrays, labels)  # type: ignore[misc]
        session.step(arrays, labels, items=range(items))
        if session.knows(range(items)):
            rows[f"{backend} {kind} known"] = lambda session=session: session.step({}, labels, items=range(items))  # type: ignore[misc]
    return rows


def measure(rows: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {name: [] for name in rows}
    order, shuffled = list(rows), random.Random(0)
    for i in range(rounds + 2):
        shuffled.shuffle(order)
        for name in order:
            rows[name]()  # the caches are those of the row itself, not of the one before it
            began_s = time.process_time()
            rows[name]()
            if i >= 2:
                seen[name].append(time.process_time() - began_s)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path(".tierwise") / "training-steps")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--sparse-only", action="store_true", help="Prepare no step that trains all of the model.")
    parser.add_argument("--packages", action="store_true", help="AOTInductor and torch.compile too.")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if arguments.prepare:
        prepare(arguments.model, arguments.batch, arguments.folder, arguments.packages, arguments.sparse_only)
        return
    environment = read_environment()
    seen = measure(rows_of(arguments.model, arguments.batch, arguments.folder, arguments.packages), arguments.rounds)
    rounds = np.arange(arguments.rounds)
    found = bootstrap(blocked=block({key: Samples(np.array(took), rounds) for key, took in seen.items()}), p=0.5)
    medians = {name: float(np.median(took)) for name, took in seen.items()}
    bases = ("eager norms", "eager full", "eager sparse")
    ratios = {name: {base: msgspec.to_builtins(found.ratio(base, name)) for base in bases} for name in seen}
    print(f"{arguments.model}, batch {arguments.batch}: CPU ms of a step, and times faster than {', '.join(bases)}")
    for name, median_s in medians.items():
        shown = "".join(f"   {one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in ratios[name].values())
        print(f"{name:<22}{1e3 * median_s:>9.2f}{shown}")
    if arguments.save:
        path = RESULTS / "training-step.json"
        content = json.loads(path.read_text()) if path.exists() else {"figures": {}}
        content["command"] = "python benchmarks/training_step.py --model MODEL --batch BATCH --save"
        content["figures"][f"{arguments.model}, batch {arguments.batch}"] = {
            "rounds": arguments.rounds,
            "median_cpu_s": medians,
            "times_faster_than": ratios,
            "steps_cpu_s": seen,
            "environment": msgspec.to_builtins(environment),
        }
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
