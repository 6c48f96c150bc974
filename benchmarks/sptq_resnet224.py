"""What static quantisation brings a ResNet-18 at 224x224 on this machine, and how much of it really runs in int8.

    python benchmarks/sptq_resnet224.py [--rounds 200] [--save]

One thread. The variants take turns in every round, in random order, so that a machine that changes its pace hits all of
them alike; ratios are taken within rounds. Weights and pictures are random: neither decides how long it takes.
``--save`` writes the figures and the environment to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tierwise.artifact import Artifact, ImageInput
from tierwise.operators import Identity, OperatorSpec, StaticPTQ, build
from tierwise.tasks import FullSize, Split, Task, build_subject

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
VARIANTS: dict[str, OperatorSpec] = {
    "fp32": Identity(),
    "sptq U8S8": StaticPTQ(items=32, isa="x86-vnni"),
    "sptq S8S8 (the tool's default types)": StaticPTQ(items=32, isa="arm64"),
}


def pictures(seed: int, count: int) -> Split:
    rng = np.random.default_rng(seed)
    return Split([rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(count)], np.zeros(count, np.int64))


def resnet18() -> Task:
    """An untrained ResNet-18 over random pictures."""

    def model(progress: object):
        import torch

        torch.manual_seed(0)
        return build_subject(FullSize(architecture="resnet18"), classes=1000).eval()

    return Task(
        name="resnet18-224",
        encoding=ImageInput(
            encoding="uint8", height=224, width=224, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        labels=(),
        splits={name: pictures(i, 32) for i, name in enumerate(("train", "calibration", "validation", "test"))},
        model=model,
        fingerprint="resnet18-224-random-0",
    )


def session(artifact: Artifact) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(str(artifact.path("model.onnx")), options, providers=["CPUExecutionProvider"])


def median(values: list[float]) -> tuple[float, float, float]:
    """Median with its 95 % interval from order statistics."""
    ranked = sorted(values)
    n = len(ranked)
    margin = 1.96 * math.sqrt(n) / 2
    low, high = math.floor(n / 2 - margin), math.ceil(n / 2 + margin)
    return float(np.median(ranked)), ranked[max(0, low)], ranked[min(n - 1, high)]


def convolutions(artifact: Artifact) -> str:
    """How many convolutions run in int8, of all."""
    coverage = artifact.manifest.coverage
    if coverage is None:
        return "-"
    nodes = [node for node in coverage.nodes if "Conv" in node.op]
    return f"{sum(node.int8 for node in nodes)}/{len(nodes)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--save", action="store_true", help="write docs/results/sptq-resnet224.json")
    options = parser.parse_args()
    task = resnet18()
    with tempfile.TemporaryDirectory() as cache:
        artifacts = {name: build(task, (spec,), Path(cache)) for name, spec in VARIANTS.items()}
        sessions = {name: session(artifact) for name, artifact in artifacts.items()}
    feeds = task.tensors(task.splits["test"].items[:1])
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    order = np.random.default_rng(0)
    for i in range(10 + options.rounds):
        for name in order.permutation(list(VARIANTS)):
            started = time.perf_counter()
            sessions[name].run(None, feeds)
            if i >= 10:
                times[name].append(time.perf_counter() - started)
    rows = []
    print("| variant | median ms [95 %] | times as fast as fp32 [95 %] | convolutions in int8 | MACs in int8 | MB |")
    print("|---|---|---|---|---|---|")
    for name, artifact in artifacts.items():
        milliseconds = median([1e3 * seconds for seconds in times[name]])
        speedup = median([a / b for a, b in zip(times["fp32"], times[name], strict=True)])
        coverage = artifact.manifest.coverage
        share = coverage.int8_macs_frac if coverage is not None else 0.0
        rows.append({
            "variant": name, "rounds": options.rounds, "median_ms": milliseconds, "speedup": speedup,
            "convolutions_int8": convolutions(artifact), "int8_macs_frac": share, "megabytes": artifact.nbytes / 1e6,
        })  # fmt: skip
        print(
            f"| {name} | {milliseconds[0]:.2f} [{milliseconds[1]:.2f}, {milliseconds[2]:.2f}] "
            f"| {speedup[0]:.2f} [{speedup[1]:.2f}, {speedup[2]:.2f}] | {convolutions(artifact)} "
            f"| {100 * share:.1f} % | {artifact.nbytes / 1e6:.1f} |"
        )
    if options.save:
        import msgspec

        from tierwise.measure import read_environment

        RESULTS.mkdir(parents=True, exist_ok=True)
        result = {"rows": rows, "environment": msgspec.to_builtins(read_environment())}
        (RESULTS / "sptq-resnet224.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
