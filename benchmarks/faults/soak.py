"""A node that is asked, loaded, unloaded and insulted for a long time, and what it holds meanwhile.

    python benchmarks/faults/soak.py [--minutes 60] [--save]

Over gRPC and REST good clients ask a model and check every answer. Every second the model is replaced by a new version
with other weights, another model is loaded and unloaded, and each kind of bad request comes once. Resident memory, open
files and threads of the node are sampled once a second. Fails where an answer is wrong or missing, a bad request is not
refused as such, or memory grows by more than 5 % after the warm-up (the first quarter): the median of the last quarter
against that of the second one. ``--save`` writes docs/results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from callers import BAD, Bad, GrpcCaller, RestCaller, callers, fine
from parts import RESULTS, Node, Usage, given, variant

from tierwise.artifact import read_files
from tierwise.measure import read_environment
from tierwise.runtime import Executor
from tierwise.wire import InferenceClient

MOST_GROWTH = 0.05


@dataclass
class Versions:
    """Which variant may answer: the one that was acknowledged last, or one whose load began since."""

    expected: list[list[Any]]
    spans: list[tuple[int, float, float]] = field(default_factory=list)

    def begin(self, number: int) -> None:
        """A load of variant ``number`` begins."""
        self.spans.append((number, time.monotonic(), float("inf")))

    def end(self) -> None:
        """It was acknowledged: who asks from now on gets it, or a later one."""
        number, begun_s, _ = self.spans[-1]
        self.spans[-1] = (number, begun_s, time.monotonic())
        self.spans = self.spans[-50:]

    def right(self, asked_s: float, sample: int, answer: Any) -> bool:
        """Whether ``answer`` to a request of ``asked_s`` is one that may be given."""
        spans = list(self.spans)
        acknowledged = [i for i, (_, _, ended_s) in enumerate(spans) if ended_s <= asked_s]
        numbers = {number for number, _, _ in spans[acknowledged[-1] if acknowledged else 0 :]}
        return any(np.allclose(answer, self.expected[number][sample], atol=1e-4) for number in numbers)


@dataclass
class Churn:
    """What the operator and the strangers do once a second."""

    node: Node
    files: list[dict[str, bytes]]
    versions: Versions
    loads: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)

    def turn(self, client: InferenceClient, bad: Bad) -> None:
        """One round."""
        number = (self.versions.spans[-1][0] + 1) % len(self.files)
        self.versions.begin(number)
        client.load("own", None, self.files[number])
        self.versions.end()
        client.load("other", None, self.files[0])
        client.unload("other")
        self.loads += 2
        for kind in BAD:
            outcome = bad.send(kind)
            self.refused[outcome] += 1
            if not fine(outcome):
                self.odd[f"{kind}: {outcome}"] += 1


def soak(minutes: float, folder: Path) -> dict[str, Any]:
    """The figures of ``minutes``."""
    artifacts = [variant(folder, f"v{i}", 16, 40 + i, cut=False) for i in range(2)]
    inputs = given(16)
    expected = [[Executor(one, threads=1).run(each)["y"] for each in inputs] for one in artifacts]
    node = Node(folder, "soaked", rest=True)
    node.start()
    versions, samples, end_s = Versions(expected), [], 60.0 * minutes
    churn = Churn(node, [read_files(one) for one in artifacts], versions)
    try:
        with InferenceClient(node.unix) as client:
            versions.begin(0)
            client.load("own", None, churn.files[0])
            versions.end()
            bad = Bad(node.tcp, node.rest_address, "own", 0)
            over_grpc = callers(lambda: GrpcCaller(node.tcp), "own", inputs, versions.right, 0.01, 2)
            over_rest = callers(lambda: RestCaller(node.rest_address), "own", inputs, versions.right, 0.01, 2)
            begun_s = time.monotonic()
            with over_grpc as by_grpc, over_rest as by_rest:
                while (at_s := time.monotonic() - begun_s) < end_s:
                    churn.turn(client, bad)
                    samples.append((at_s, Usage.of(node.pid)))
                    time.sleep(max(0.0, begun_s + at_s + 1.0 - time.monotonic()))
            bad.close()
        alive = node.process is not None and node.process.poll() is None
    finally:
        node.kill()
    return figures(samples, end_s) | {
        "minutes": minutes,
        "alive": alive,
        "loads": churn.loads,
        "bad_requests": sum(churn.refused.values()),
        "bad_outcomes": dict(churn.refused.most_common()),
        "bad_not_refused": dict(churn.odd),
        "grpc": by_grpc.figures(),
        "rest": by_rest.figures(),
    }


def figures(samples: list[tuple[float, Usage]], end_s: float) -> dict[str, Any]:
    """Memory, files and threads by quarter, and how memory grew after the first."""
    quarters = [[usage for at_s, usage in samples if i <= 4 * at_s / end_s < i + 1] for i in range(4)]
    medians = [
        {
            name: statistics.median(asdict(usage)[name] for usage in quarter)
            for name in ("rss_bytes", "files", "threads")
        }
        for quarter in quarters
    ]
    growth = medians[3]["rss_bytes"] / medians[1]["rss_bytes"] - 1
    return {"samples": len(samples), "quarters": medians, "growth_frac": growth}


def failures(found: dict[str, Any]) -> list[str]:
    """What must not be."""
    said = [
        f"{front}: {found[front]}" for front in ("grpc", "rest") if found[front]["wrong"] + found[front]["unanswered"]
    ]
    if found["bad_not_refused"] or not found["alive"]:
        said.append(f"the node lives: {found['alive']}; not refused: {found['bad_not_refused']}")
    if found["growth_frac"] > MOST_GROWTH:
        said.append(f"memory grew by {100 * found['growth_frac']:.1f} %: {found['quarters']}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment = read_environment()
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        found = soak(arguments.minutes, Path(folder))
    print(json.dumps(found, indent=1))
    if arguments.save:
        content = {"soak": found, "environment": msgspec.to_builtins(environment)}
        (RESULTS / "soak.json").write_text(json.dumps(content, indent=1) + "\n")
    if said := failures(found):
        raise SystemExit("; ".join(said))


if __name__ == "__main__":
    main()
