"""How fast a node is ready after its process was started, and what memory it takes.

    python benchmarks/node_start.py [--starts 15] [--save]

Ready means: the client has its first answer. Files are in the page cache after the first start, which is left out.
``--save`` writes the figures and the environment to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tierwise.measure import Summary, read_environment, summarise
from tierwise.wire import InferenceClient

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def start_once(folder: Path) -> tuple[float, float, float]:
    """Seconds to the printed line, seconds to the first answer, resident megabytes then."""
    address = f"unix:{folder}/node.sock"
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tierwise", "node", "--listen", address], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        line_s = time.perf_counter() - started_s
        with InferenceClient(address) as client:
            assert client.live()
        answer_s = time.perf_counter() - started_s
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        return line_s, answer_s, int(resident_kb) / 1e3
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def row(name: str, summary: Summary, scale: float, unit: str) -> str:
    low, high = (summary.p50.low_s or 0) * scale, (summary.p50.high_s or 0) * scale
    return (
        f"{name:<28}{summary.p50.value_s * scale:8.1f} [{low:.1f}, {high:.1f}]   max {summary.max_s * scale:.1f} {unit}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment = read_environment()
    with tempfile.TemporaryDirectory() as folder:
        start_once(Path(folder))
        seen = [start_once(Path(folder)) for _ in range(arguments.starts)]
    lines, answers, resident = (summarise(values) for values in zip(*seen, strict=True))
    print(f"{arguments.starts} starts; median, its 95 % interval, largest (load {environment.load_1min:.1f})")
    print(row("start to its line", lines, 1e3, "ms"))
    print(row("start to the first answer", answers, 1e3, "ms"))
    print(row("resident memory", resident, 1, "MB"))
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        figures = {
            "line_s": [line for line, _, _ in seen],
            "answer_s": [answer for _, answer, _ in seen],
            "resident_mb": [size for _, _, size in seen],
            "environment": msgspec.to_builtins(environment),
        }
        (RESULTS / "node_start.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
