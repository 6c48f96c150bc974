"""What training on a node costs those who ask it: latency of answers without training, at a share, and at a full CPU.

    python benchmarks/training_beside_serving.py --prepare FOLDER          (needs torch: compiles, writes pictures)
    python benchmarks/training_beside_serving.py FOLDER [--rounds 4] [--seconds 6] [--save]

MobileNetV2 (width 0.35) of 64 x 64 PNG pictures; the step trains the last nine layers, batch 8, momentum, and learns
from a folder on the node's disk; the served model takes over the weights every 10 steps. Requests of one picture arrive
at random (Poisson) at a fixed rate whatever the answers do, and are timed from when they were due. The arms take turns
in every round, on a node with one CPU (training has no other to go to) and on one with two. All arms answer with learnt
weights, which ONNX Runtime can prepare less for than constants. The client is bound to no CPU.
``--save`` writes figures and environment to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tierwise.artifact import open_artifact, read_files
from tierwise.measure import read_environment
from tierwise.wire import InferenceClient, TrainingClient, TrainingOrder

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
ARMS = {"no training": None, "share 0.25": 0.25, "share 1": 1.0}
NODES = {"one CPU": "0", "two CPUs": "0,1"}
SIDE, CLASSES, RATE_PER_S, SWAP_EVERY = 64, 4, 40.0, 10


def prepare(folder: Path) -> None:
    """Compile the step of a model with random weights (times do not depend on them), and write pictures to learn."""
    import torch
    from PIL import Image

    from tierwise.artifact import ImageInput, Optimiser
    from tierwise.tasks import MobileNetV2, build_subject
    from tierwise.training import Scheme
    from tierwise.training.compiler import Lesson, compile_training

    torch.manual_seed(0)
    module = build_subject(MobileNetV2(width_frac=0.35), channels=3, classes=CLASSES).eval()
    rng = np.random.default_rng(0)
    batch = {"input": rng.standard_normal((8, 3, SIDE, SIDE)).astype(np.float32)}
    encoding = ImageInput(encoding="png", height=SIDE, width=SIDE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    labels = tuple(f"c{i}" for i in range(CLASSES))
    lesson = Lesson("m", encoding, labels, {}, [(batch, rng.integers(0, CLASSES, 8))], "random")
    optimiser = Optimiser(kind="momentum", rate=1e-4)
    compile_training(module, lesson, Scheme(whole=9, biases=9), optimiser, folder / "artifact")
    for i in range(64):
        picture = folder / "pictures" / "today" / labels[i % CLASSES] / f"{i}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(picture)


@contextmanager
def node(folder: Path, cpus: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as place:
        address = f"unix:{place}/node.sock"
        words = [
            sys.executable,
            "-m",
            "tierwise",
            "node",
            "--listen",
            address,
            "--threads",
            "1",
            "--log-level",
            "error",
        ]
        process = subprocess.Popen(
            ["taskset", "-c", cpus, *words, "--training-folder", str(folder / "pictures")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with InferenceClient(address) as client:
                client.load("m", None, read_files(open_artifact(folder / "artifact")))
            yield address
        finally:
            process.terminate()
            process.wait(20)
            process.stdout.close()


def ask(address: str, picture: bytes, seconds: float, seed: int) -> tuple[list[float], int, set[str]]:
    """Latencies from when requests were due, failures, and the labels of the weights that answered."""
    rng, due, at_s = random.Random(seed), [], 0.0
    while (at_s := at_s + rng.expovariate(RATE_PER_S)) < seconds:
        due.append(at_s)
    payload, took, failed, labels = {"payload": np.array([[picture]], object)}, [], [], set()
    mutex, numbers = threading.Lock(), iter(range(len(due)))
    began_s = time.perf_counter() + 0.05

    def work() -> None:
        with InferenceClient(address) as client:
            client.infer("m", payload)
            while True:
                with mutex:
                    number = next(numbers, None)
                if number is None:
                    return
                time.sleep(max(0.0, began_s + due[number] - time.perf_counter()))
                try:
                    label = str(client.infer("m", payload).parameters.get("tierwise.weights", ""))
                    took.append(time.perf_counter() - began_s - due[number])
                    labels.add(label)
                except Exception as error:
                    failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, len(failed), labels


def block(address: str, picture: bytes, share: float | None, seconds: float, seed: int) -> dict[str, Any]:
    """One arm of one round."""
    with TrainingClient(address) as client:
        if share is not None:
            client.begin(
                "m", TrainingOrder(share_frac=share, folder="today", swap_every=SWAP_EVERY, checkpoint_every=50)
            )
            time.sleep(0.5)
        before = 0 if share is None else client.status("m").progress.steps
        began_s = time.perf_counter()
        took, failed, labels = ask(address, picture, seconds, seed)
        made = {"latency_s": took, "failed": failed, "weights": len(labels), "steps_per_s": 0.0, "used_frac": 0.0}
        if share is not None:
            passed_s = time.perf_counter() - began_s
            told = client.status("m").progress
            made |= {
                "steps_per_s": (told.steps - before) / passed_s,
                "used_frac": told.used_frac,
                "step_s": told.step_s,
            }
            client.stop("m")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    if asked.prepare:
        prepare(asked.folder)
        return
    environment, figures = read_environment(), {}
    picture = next((asked.folder / "pictures").rglob("*.png")).read_bytes()
    for where, cpus in NODES.items():
        with node(asked.folder, cpus) as address:
            block(address, picture, 1.0, 1.0, 0)  # warm, and with learnt weights from here on
            rounds: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
            for number in range(asked.rounds):
                order = list(ARMS)[number % len(ARMS) :] + list(ARMS)[: number % len(ARMS)]
                for arm in order:
                    rounds[arm].append(block(address, picture, ARMS[arm], asked.seconds, number))
        for arm, blocks in rounds.items():
            p50s, p99s = ([1e3 * float(np.percentile(one["latency_s"], at)) for one in blocks] for at in (50, 99))
            whole = 1e3 * np.concatenate([one["latency_s"] for one in blocks])
            mean = {key: sum(one.get(key, 0.0) for one in blocks) / len(blocks) for key in ("steps_per_s", "used_frac")}
            row = {
                "requests": len(whole),
                "failed": sum(one["failed"] for one in blocks),
                "weights": sum(one["weights"] for one in blocks),
                "p50_ms": float(np.percentile(whole, 50)),
                "p99_ms": float(np.percentile(whole, 99)),
                "p50_ms_of_rounds": p50s,
                "p99_ms_of_rounds": p99s,
                "step_cpu_ms": 1e3 * blocks[-1].get("step_s", 0.0),
                **mean,
            }
            figures[f"{where}, {arm}"] = row
            print(
                f"{where:<9} {arm:<12} {row['requests']:5d} answers, {row['failed']} failed, "
                f"p50 {row['p50_ms']:6.2f} ms, "
                f"p99 {row['p99_ms']:6.2f} ms ({', '.join(f'{value:.1f}' for value in p99s)}); "
                f"{mean['steps_per_s']:5.2f} steps/s, CPU {mean['used_frac']:.3f}, {row['weights']} weights seen"
            )
    if asked.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        told = {"rate_per_s": RATE_PER_S, "swap_every": SWAP_EVERY, "arms": figures}
        content = json.dumps(told | {"environment": msgspec.to_builtins(environment)}, indent=1)
        (RESULTS / "training_beside_serving.json").write_text(content + "\n")


if __name__ == "__main__":
    main()
