"""What batches alone can gain: ONNX Runtime's time for 1 to 32 items of the models at once, on one thread.

    python benchmarks/serving/batch_curve.py [--save]

``--save`` writes the figures and the environment to docs/results/serving-batch-curve.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
from models import INPUT, Subject, make_subjects

from tierwise.measure import read_environment

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
SIZES = (1, 2, 4, 8, 16, 32)
ITEMS = 800


def curve(subject: Subject) -> list[dict[str, float]]:
    """Median seconds an item by batch size."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(subject.file, options, providers=["CPUExecutionProvider"])
    points = []
    for size in SIZES:
        batch, took_s = np.repeat(subject.request, size, axis=0), []
        for _ in range(5 + ITEMS // size):
            start_s = time.perf_counter()
            session.run(None, {INPUT: batch})
            took_s.append(time.perf_counter() - start_s)
        points.append({"size": size, "item_s": float(np.median(took_s[5:])) / size})
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment = read_environment()
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        curves = {subject.name: curve(subject) for subject in make_subjects(Path(folder))}
    for name, points in curves.items():
        print(name + ", µs an item:", ", ".join(f"{p['size']}: {1e6 * p['item_s']:.1f}" for p in points))
    if arguments.save:
        content = {
            "command": "python benchmarks/serving/batch_curve.py --save",
            "curves": curves,
            "environment": msgspec.to_builtins(environment),
        }
        (RESULTS / "serving-batch-curve.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
