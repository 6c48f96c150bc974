"""What dynamic batching gains: requests a second and latency at 1, 8 and 64 clients, with and without.

    python benchmarks/node_batching.py [--seconds 4] [--save]

Two models: one that does nothing, where only what surrounds a run can be saved, and a network of dense layers, whose
weights are read once for a whole batch. The node has one CPU and the clients, in this process, another. Each client
asks again as soon as it is answered. ``--save`` writes the figures and the environment to docs/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tierwise.artifact import (
    Artifact,
    Manifest,
    Provenance,
    Segment,
    TensorInput,
    TensorSpec,
    read_files,
    write_artifact,
)
from tierwise.measure import read_environment
from tierwise.wire import METHODS, InferenceClient, infer_request

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
CLIENTS = (1, 8, 64)
WIDTH = 1024


def model(folder: Path, layers: int) -> Artifact:
    x, y = (TensorSpec(name=name, dtype="FP32", shape=(-1, WIDTH)) for name in "xy")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy"]
    rng = np.random.default_rng(1)
    weights = [rng.normal(0, 0.03, (WIDTH, WIDTH)).astype(np.float32) for _ in range(layers)]
    names = ["x", *(f"h{i}" for i in range(layers))]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    nodes.append(helper.make_node("Identity", [names[-1]], ["y"]))
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    manifest = Manifest(
        name="dense",
        input=TensorInput(tensors=(x,)),
        outputs=(y,),
        segments=(Segment(file="m.onnx", inputs=(x,), outputs=(y,), macs=layers * WIDTH * WIDTH),),
        files=(),
        provenance=Provenance(task="", task_fingerprint="", chain="identity", specs=(), versions={}),
    )
    return write_artifact(folder, manifest, {"m.onnx": content.SerializeToString()})


async def load(address: str, raw: bytes, clients: int, seconds: float) -> list[float]:
    """Latencies in seconds."""
    took: list[float] = []

    async def ask(call: grpc.aio.UnaryUnaryMultiCallable, until_s: float) -> None:
        while (started_s := time.perf_counter()) < until_s:
            await call(raw)
            took.append(time.perf_counter() - started_s)

    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(clients)]
    calls = [channel.unary_unary(METHODS["ModelInfer"][0]) for channel in channels]
    for measured_s in (1.0, seconds):  # the first warms up, and the curve is measured in it
        took.clear()
        await asyncio.gather(*(ask(call, time.perf_counter() + measured_s) for call in calls))
    for channel in channels:
        await channel.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment, figures = read_environment(), []
    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="tw-") as name:
        address = f"unix:{name}/s"
        command = [sys.executable, "-m", "tierwise", "node", "--listen", address, "--threads", "1"]
        os.sched_setaffinity(0, cpus[:1])
        node = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(0, cpus[-1:])
        try:
            assert node.stdout is not None
            node.stdout.readline()
            with InferenceClient(address) as client:
                for kind, layers in (("no-op", 0), ("dense", 4)):
                    files = read_files(model(Path(name) / kind, layers))
                    for batching in (False, True):
                        served = f"{kind}{'-batching' if batching else ''}"
                        client.load(served, b'{"batching": {}}' if batching else b"{}", files)
                        raw = infer_request(served, {"x": np.ones((1, WIDTH), np.float32)}).encode()
                        for clients in CLIENTS:
                            took = np.sort(asyncio.run(load(address, raw, clients, arguments.seconds)))
                            figures.append(
                                {
                                    "model": kind,
                                    "batching": batching,
                                    "clients": clients,
                                    "rate_per_s": len(took) / arguments.seconds,
                                    "p50_s": float(np.quantile(took, 0.5)),
                                    "p99_s": float(np.quantile(took, 0.99)),
                                }
                            )
                            print(json.dumps(figures[-1]), flush=True)
        finally:
            node.terminate()
            node.wait(10)
    if arguments.save:
        content = {"figures": figures, "environment": msgspec.to_builtins(environment)}
        (RESULTS / "node_batching.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
