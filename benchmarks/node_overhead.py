"""What asking a node costs beside the model itself: a model that does nothing, asked in six ways.

    python benchmarks/node_overhead.py [--rounds 300] [--save]

In every round the ways take turns in random order, so that a machine that changes its pace hits all of them alike. The
model copies its input; the client is this process, the nodes are two others, and all share the machine. ``--save``
writes the figures and the environment to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from tierwise.artifact import (
    Artifact,
    Manifest,
    Provenance,
    Segment,
    TensorInput,
    TensorSpec,
    write_artifact,
)
from tierwise.measure import read_environment, summarise
from tierwise.runtime import Executor, Pipeline, Placed, Share, deploy
from tierwise.wire import InferenceClient

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SIZES_BYTES = (1_000, 150_000, 600_000)


def no_op(folder: Path) -> Artifact:
    x, y = (TensorSpec(name=name, dtype="FP32", shape=(-1, -1)) for name in "xy")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "k"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    manifest = Manifest(
        name="no-op",
        input=TensorInput(tensors=(x,)),
        outputs=(y,),
        segments=(Segment(file="m.onnx", inputs=(x,), outputs=(y,), macs=0),),
        files=(),
        provenance=Provenance(task="", task_fingerprint="", chain="identity", specs=(), versions={}),
    )
    return write_artifact(folder / "artifact", manifest, {"m.onnx": model.SerializeToString()})


def start(folder: Path, tier: str) -> tuple[subprocess.Popen[str], str, str]:
    unix = f"unix:{folder}/{tier}.sock"
    command = [sys.executable, "-m", "tierwise", "node", "--listen", "127.0.0.1:0", "--listen", unix, "--tier", tier]
    process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split(" ready on ")[1].split(",")[0], unix


def measure(ways: dict[str, Callable[[dict], object]], rounds: int, size_bytes: int) -> dict[str, list[float]]:
    inputs = {"x": np.zeros((1, size_bytes // 4), np.float32)}
    order, seen = list(ways), {name: [] for name in ways}
    shuffled = random.Random(size_bytes)
    for i in range(rounds + 30):
        shuffled.shuffle(order)
        for name in order:
            started_s = time.perf_counter()
            ways[name](inputs)
            if i >= 30:
                seen[name].append(time.perf_counter() - started_s)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment, figures = read_environment(), {}
    with tempfile.TemporaryDirectory(prefix="tw-") as name:
        folder = Path(name)
        artifact = no_op(folder)
        lower, lower_tcp, lower_unix = start(folder, "lower")
        upper, upper_tcp, upper_unix = start(folder, "upper")
        try:
            deploy(artifact, "here", [Placed(control=lower_unix, share=Share())])
            passing = Share(segments=(0, 0), forward=upper_tcp)
            deploy(
                artifact,
                "above",
                [Placed(control=lower_unix, share=passing), Placed(control=upper_unix, share=Share())],
            )
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            session = ort.InferenceSession(str(artifact.path("m.onnx")), options, providers=["CPUExecutionProvider"])
            encoding = artifact.manifest.input
            client = InferenceClient(lower_unix)
            ways: dict[str, Callable[[dict], object]] = {
                "ONNX Runtime alone": lambda inputs: session.run(None, inputs),
                "executor": Executor(artifact, threads=1).run,
                "node, no account": lambda inputs: client.infer("here", inputs),
                "node, unix socket": Pipeline(lower_unix, "here", encoding).infer,
                "node, TCP loopback": Pipeline(lower_tcp, "here", encoding).infer,
                "node > TCP > node": Pipeline(lower_unix, "above", encoding).infer,
            }
            print(f"{arguments.rounds} rounds; median in µs and its 95 % interval (load {environment.load_1min:.1f})")
            print(f"{'bytes in and out':<22}" + "".join(f"{size:>24,}" for size in SIZES_BYTES))
            seen = {size: measure(ways, arguments.rounds, size) for size in SIZES_BYTES}
            for way in ways:
                cells = []
                for size in SIZES_BYTES:
                    p50 = summarise(seen[size][way]).p50
                    low, high = (round(1e6 * (end or 0)) for end in (p50.low_s, p50.high_s))
                    cells.append(f"{1e6 * p50.value_s:.0f} [{low}, {high}]")
                    figures[f"{way}, {size} bytes"] = msgspec.to_builtins(p50)
                print(f"{way:<22}" + "".join(f"{cell:>24}" for cell in cells))
        finally:
            for process in (lower, upper):
                process.terminate()
                process.wait(10)
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        content = {"p50": figures, "rounds": arguments.rounds, "environment": msgspec.to_builtins(environment)}
        (RESULTS / "node_overhead.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
