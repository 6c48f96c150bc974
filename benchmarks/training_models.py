"""Which models a training step compiles for, and how far 20 compiled steps are from eager PyTorch.

    python benchmarks/training_models.py [--only MODEL] [--part PART] [--optimiser KIND] [--backend BACKEND]
                                        [--rate RATE] [--save] [--table]

For each model, what is trained and each optimiser: the largest relative difference of a loss and that of the trained
tensors as one vector, over 20 steps on ONNX Runtime or another backend, on random items. Weights are random, norms keep
statistics that are not those of a new model. A case that is refused is shown with the reason. Each option may be given
more than once. ``--save`` adds the figures to docs/results/training-models.json; ``--table`` shows what is there as
docs/training/models.md does, and measures nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from tierwise._errors import TierwiseError
from tierwise.artifact import Optimiser, TensorInput, TensorSpec
from tierwise.measure import read_environment
from tierwise.tasks import (
    Bert,
    DenseNet,
    Inception,
    Llama,
    MobileNetV2,
    ResNet,
    ResNeXt,
    build_decoder,
    build_subject,
)
from tierwise.training import LoRA, Scheme, TrainingSession
from tierwise.training.compiler import Lesson, compile_training

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "training-models.json"
CLASSES, ITEMS = 5, 2
OPTIMISERS = {"sgd": 0.01, "momentum": 0.01, "adam": 1e-4, "lion": 1e-4}
BERT = Bert(layers=4, hidden=64, head_width=16, vocabulary=300, max_length=32)
LLAMA = Llama(layers=4, hidden=64, heads=4, kv_heads=2, length=32)
FULL, LAST = Scheme(whole="all"), Scheme(biases=9, whole=1)
Make = Callable[[], nn.Module]
MODELS: dict[str, tuple[Make, int, dict[str, Scheme]]] = {
    # How it is made, pixels or tokens, what is trained.
    "mobilenet-v2-0.35": (
        lambda: build_subject(MobileNetV2(width_frac=0.35, reduction=8), classes=CLASSES),
        32,
        {"sparse": LAST, "full": FULL},
    ),
    "mobilenet-v2-1.0": (
        lambda: build_subject(MobileNetV2(reduction=8), classes=CLASSES),
        32,
        {"sparse": LAST, "full": FULL},
    ),
    "resnet-20": (
        lambda: build_subject(ResNet(depth=20, width=16), classes=CLASSES),
        32,
        {"sparse": LAST, "full": FULL},
    ),
    "resnext": (lambda: build_subject(ResNeXt(), classes=CLASSES), 32, {"sparse": LAST}),
    "densenet": (lambda: build_subject(DenseNet(depth=16, growth=8), classes=CLASSES), 32, {"sparse": LAST}),
    "inception": (lambda: build_subject(Inception(width=24), classes=CLASSES), 32, {"sparse": LAST}),
    "bert": (
        lambda: build_subject(BERT, classes=CLASSES),
        32,
        {"sparse": LAST, "full": FULL, "lora": Scheme(whole=1, lora={"encoder.*": LoRA(rank=4)})},
    ),
    "llama": (lambda: build_decoder(LLAMA), 32, {"full": FULL, "lora": Scheme(lora={"blocks.*": LoRA(rank=8)})}),
}


def batches(name: str, size: int) -> Iterator[tuple[dict[str, Any], Any]]:
    rng = np.random.default_rng(3)
    for _ in range(2):
        labels = rng.integers(0, CLASSES, ITEMS)
        if name == "bert":
            ids = rng.integers(1, BERT.vocabulary, (ITEMS, size))
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        elif name == "llama":
            rows = rng.integers(0, LLAMA.vocabulary, (ITEMS, size + 1))
            inputs, labels = {"tokens": rows[:, :-1].copy()}, rows[:, 1:].copy()
        else:
            inputs = {"input": rng.standard_normal((ITEMS, 3, size, size)).astype(np.float32)}
        yield inputs, labels


def with_statistics(make: Make) -> nn.Module:
    """Random weights, and norms that are not those of a new model."""
    torch.manual_seed(1)
    module = make()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def replayed(name: str, scheme: Scheme, optimiser: Optimiser, backend: Any) -> dict[str, Any]:
    make, size, _ = MODELS[name]
    module = with_statistics(make)
    made = list(batches(name, size))
    tensors = tuple(
        TensorSpec(name=key, dtype="FP32" if a.dtype == np.float32 else "INT64", shape=(-1, *a.shape[1:]))
        for key, a in made[0][0].items()
    )
    lesson = Lesson(name, TensorInput(tensors=tensors), (), {}, made, name)
    with tempfile.TemporaryDirectory(prefix="tierwise-models-") as folder:
        try:
            artifact = compile_training(module, lesson, scheme, optimiser, Path(folder) / "artifact", backend=backend)
        except TierwiseError as error:
            return {"refused": str(error)}
        session = TrainingSession(artifact)  # of the backend that was asked for, which a session takes by itself
        found = session.verified
    return {
        "loss_error": found.loss_error,
        "weight_error": found.weight_error,
        "steps": found.steps,
        "ran_on": session.backend,
    }


def rows(figures: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The larger of both errors of every case: a line for each model, what is trained and backend."""
    yield f"| | {' | '.join(OPTIMISERS)} |"
    yield "|---" * (1 + len(OPTIMISERS)) + "|"
    kinds = ["onnxruntime", "hybrid", "aotinductor"]
    for backend, (name, (_, _, schemes)) in itertools.product(kinds, MODELS.items()):
        for part in schemes:
            end = f", {backend}" * (backend != "onnxruntime")
            found = [figures.get(f"{name}, {part}, {kind}{end}") for kind in OPTIMISERS]
            if any(found):
                yield f"| {name}, {part}{end} | {' | '.join(map(_shown, found))} |"


def _shown(case: dict[str, Any] | None) -> str:
    if case is None:
        return ""
    return "refused" if "refused" in case else f"{max(case['loss_error'], case['weight_error']):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(MODELS), action="append")
    parser.add_argument("--part", choices=("sparse", "full", "lora"), action="append")
    parser.add_argument("--optimiser", choices=sorted(OPTIMISERS), action="append")
    parser.add_argument("--backend", choices=("onnxruntime", "hybrid", "aotinductor"), action="append")
    parser.add_argument("--rate", type=float, help="another than that of the table")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"figures": {}}
    figures: dict[str, Any] = known["figures"]
    if arguments.table:
        print(*rows(figures), sep="\n")
        return
    cases = itertools.product(
        arguments.backend or ["onnxruntime"],
        arguments.optimiser or OPTIMISERS,
        arguments.only or MODELS,
        arguments.part or ("sparse", "lora", "full"),
    )
    for backend, kind, name, part in cases:
        schemes, rate = MODELS[name][2], OPTIMISERS[kind]
        if part not in schemes:
            continue
        title = f"{name}, {part}, {kind}" + f", {backend}" * (backend != "onnxruntime")
        if arguments.rate is not None:
            rate, title = arguments.rate, f"{title}, at {arguments.rate:g}"
        found = replayed(name, schemes[part], Optimiser(kind=kind, rate=rate), backend)  # type: ignore[arg-type]
        figures[title] = {"rate": rate, **found}
        print(f"{title:<50}{found}", flush=True)
        if arguments.save:
            content = {
                "command": "python benchmarks/training_models.py --save",
                "figures": figures,
                "environment": msgspec.to_builtins(read_environment()),
            }
            RESULT.parent.mkdir(parents=True, exist_ok=True)
            RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
