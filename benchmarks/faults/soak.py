"""A node that is asked, loaded, unloaded and insulted for a long time, and what it holds meanwhile.

    python benchmarks/faults/soak.py [--minutes 60] [--save]

Over gRPC and REST good clients ask a model and check every answer. Every second the model is replaced by a new version
with other weights, another model is loaded and unloaded, and each kind of bad request comes once. Resident memory, open
files and threads of the node are sampled once a second. Fails where an answer is wrong or missing, a bad request is not
refused as such, or memory grows by more than 5 % after the warm-up (the first quarter): the median of the last quarter
against that of the second one. A minute is sixty rounds, one a second; requests during which the whole benchmark was
stopped by whoever runs the machine are left out and counted. ``--save`` writes docs/results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from callers import BAD, Bad, GrpcCaller, RestCaller, Stillness, callers, fine
from parts import RESULTS, Node, Usage, given, variant
from versions import Versions

from tierwise.artifact import read_files
from tierwise.measure import read_environment
from tierwise.runtime import Executor
from tierwise.wire import InferenceClient

MOST_GROWTH = 0.05


@dataclass
class Churn:
    """What the operator and the strangers do once a second."""

    node: Node
    files: list[dict[str, bytes]]
    versions: Versions
    stillness: Stillness
    loads: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)

    def turn(self, client: InferenceClient, bad: Bad) -> None:
        """One round."""
        number = (self.versions.newest + 1) % len(self.files)
        self.versions.begin(number)
        client.load("own", None, self.files[number])
        self.versions.end()
        client.load("other", None, self.files[0])
        client.unload("other")
        self.loads += 2
        for kind in BAD:
            begun_s = time.monotonic()
            outcome = bad.send(kind)
            if self.stillness.spoilt(begun_s):
                continue
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
    versions, samples = Versions(expected), list[Usage]()
    churn = Churn(node, [read_files(one) for one in artifacts], versions, Stillness())
    try:
        with InferenceClient(node.unix, 900.0) as client:
            versions.begin(0)
            client.load("own", None, churn.files[0])
            versions.end()
            bad = Bad(node.tcp, node.rest_address, "own", 0)
            over_grpc = callers(lambda: GrpcCaller(node.tcp), "own", inputs, versions.right, 0.01, 2)
            over_rest = callers(lambda: RestCaller(node.rest_address), "own", inputs, versions.right, 0.01, 2)
            begun_s = time.monotonic()
            with over_grpc as by_grpc, over_rest as by_rest:
                for _ in range(round(60 * minutes)):
                    turn_s = time.monotonic()
                    churn.turn(client, bad)
                    samples.append(Usage.of(node.pid))
                    time.sleep(max(0.0, turn_s + 1.0 - time.monotonic()))
            bad.close()
            churn.stillness.close()
        alive = node.process is not None and node.process.poll() is None
    finally:
        node.kill()
    return figures(samples) | {
        "seconds": time.monotonic() - begun_s,
        "minutes": minutes,
        "alive": alive,
        "loads": churn.loads,
        "bad_requests": sum(churn.refused.values()),
        "bad_outcomes": dict(churn.refused.most_common()),
        "bad_not_refused": dict(churn.odd),
        "grpc": by_grpc.figures(),
        "rest": by_rest.figures(),
    }


def figures(samples: list[Usage]) -> dict[str, Any]:
    """Memory, files and threads by quarter, and how memory grew after the first."""
    bounds = [len(samples) * i // 4 for i in range(5)]
    quarters = [[asdict(usage) for usage in samples[first:last]] for first, last in pairwise(bounds)]
    medians = [{name: statistics.median(each[name] for each in quarter) for name in quarter[0]} for quarter in quarters]
    growth = medians[3]["rss_bytes"] / medians[1]["rss_bytes"] - 1
    return {"samples": len(samples), "quarters": medians, "growth_frac": growth}


def failures(found: dict[str, Any]) -> list[str]:
    """What must not be."""
    fronts = {name: found[name] for name in ("grpc", "rest")}
    said = [f"{name}: {asked}" for name, asked in fronts.items() if asked["wrong"] + asked["unanswered"]]
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
