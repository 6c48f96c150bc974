"""Each process killed in turn under load (SIGKILL): is every answer right, is every acknowledged load served again?

    python benchmarks/faults/kill.py [--kills 10] [--only NAME] [--save]

Two real nodes, a mobile and an edge one, with repositories. Both serve a model of their own that is replaced by
versions whose answers differ; a third model is cut between them. Six clients ask all three over gRPC and REST without a
pause longer than 2 ms, and check every answer: it must be that of the version that was acknowledged last when the
request was sent, or of one whose load began later. Each case is done ``--kills`` times:

* ``mobile serving``, ``edge serving``: the node dies while it serves, and is started again.
* ``mobile loading``, ``edge loading``: it dies at a random moment of a load of a new version.
* ``client loading``: the process that pushes the new version to the mobile node dies instead.

``--save`` writes docs/results/faults-kill.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from callers import Asked, GrpcCaller, RestCaller, callers
from parts import RESULTS, Node, given, variant
from versions import Versions

from tierwise._errors import RemoteError
from tierwise.artifact import Artifact, read_files
from tierwise.measure import read_environment
from tierwise.runtime import Executor, Placed, Share, deploy
from tierwise.wire import InferenceClient

CASES = ("mobile serving", "edge serving", "mobile loading", "edge loading", "client loading")
INPUTS, PATIENCE_S = 16, 30.0

_PUSHER = """
import sys
from pathlib import Path
from tierwise.artifact import open_artifact, read_files
from tierwise.wire import InferenceClient
address, *folders = sys.argv[1:]
files = [read_files(open_artifact(Path(folder))) for folder in folders]
with InferenceClient(address) as client:
    client.live()
    print("ready", flush=True)
    client.load("own", None, files[int(sys.stdin.readline())])
    print("done", flush=True)
"""


@dataclass
class Rig:
    """Two nodes, the variants that they serve in turn, and the clients' counts."""

    nodes: dict[str, Node]
    artifacts: list[Artifact]
    inputs: list[dict[str, Any]]
    versions: dict[str, Versions]
    asked: dict[str, Asked] = field(default_factory=dict)
    loads: dict[str, int] = field(
        default_factory=lambda: {"acknowledged": 0, "lost": 0, "cut off": 0, "cut off, served": 0}
    )
    ready_s: list[float] = field(default_factory=list)
    serving_s: list[float] = field(default_factory=list)

    def load(self, tier: str) -> bool:
        """Load the other variant as a new version; whether it was acknowledged."""
        versions = self.versions[tier]
        number = 1 - versions.newest
        versions.begin(number)
        try:
            with InferenceClient(self.nodes[tier].unix) as client:
                client.load("own", None, read_files(self.artifacts[number]))
        except RemoteError:
            return False
        versions.end()
        self.loads["acknowledged"] += 1
        return True

    def settle(self, tier: str, acknowledged: bool) -> None:
        """What is served after a load that was or was not acknowledged; from now on nothing else may be."""
        versions = self.versions[tier]
        with InferenceClient(self.nodes[tier].unix) as client:
            answer = client.infer("own", self.inputs[0]).outputs["y"]
        served = next(i for i, each in enumerate(versions.expected) if np.allclose(answer, each[0], atol=1e-4))
        if acknowledged:
            self.loads["lost"] += served != versions.newest
            return
        self.loads["cut off"] += 1
        self.loads["cut off, served"] += served == versions.newest
        versions.begin(served)
        versions.end()

    def again(self, tier: str) -> None:
        """Start the node again and wait until all that it serves is answered rightly."""
        begun_s = time.monotonic()
        self.nodes[tier].start()
        self.ready_s.append(time.monotonic() - begun_s)
        waited = [name for name in self.asked if name == "cut" or name.startswith(tier)]
        while not all(self.asked[name].right_at_s > begun_s for name in waited):
            if time.monotonic() - begun_s > PATIENCE_S:
                raise SystemExit(f"{tier} does not serve: { {name: self.asked[name].figures() for name in waited} }")
            time.sleep(0.001)
        self.serving_s.append(max(self.asked[name].right_at_s for name in waited) - begun_s)


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        nodes = {tier: Node(folder, tier, rest=True) for tier in ("mobile", "edge")}
        for node in nodes.values():
            node.start()
            stack.callback(node.kill)
        artifacts = [variant(folder, f"own{i}", 48, 20 + i, cut=False) for i in range(2)]
        cut, inputs = variant(folder, "cut", 8, 30, cut=True), given(INPUTS)
        expected = [[Executor(one, threads=1).run(each)["y"] for each in inputs] for one in (*artifacts, cut)]
        one = Rig(nodes, artifacts, inputs, {tier: Versions(expected[:2]) for tier in nodes})
        for tier in nodes:
            one.load(tier)
        split = [
            Placed(control=nodes["mobile"].unix, share=Share(segments=(0, 1), forward=nodes["edge"].tcp)),
            Placed(control=nodes["edge"].unix, share=Share(segments=(1, 2))),
        ]
        deploy(cut, "cut", split)
        still = Versions(expected[2:])
        still.begin(0)
        still.end()
        mobile, edge = nodes["mobile"], nodes["edge"]
        ways = {
            "mobile over gRPC": (lambda: GrpcCaller(mobile.tcp, 10.0), "own", one.versions["mobile"]),
            "mobile over REST": (lambda: RestCaller(mobile.rest_address, 10.0), "own", one.versions["mobile"]),
            "edge over gRPC": (lambda: GrpcCaller(edge.tcp, 10.0), "own", one.versions["edge"]),
            "edge over REST": (lambda: RestCaller(edge.rest_address, 10.0), "own", one.versions["edge"]),
            "cut": (lambda: GrpcCaller(mobile.tcp, 10.0), "cut", still),
            "cut over REST": (lambda: RestCaller(mobile.rest_address, 10.0), "cut", still),
        }
        for name, (make, model, versions) in ways.items():
            one.asked[name] = stack.enter_context(callers(make, model, inputs, versions.right, 0.002))
        yield one


def killed(one: Rig, tier: str, rng: random.Random, *, loading: bool) -> None:
    """One death of a node and what follows."""
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(one.load(tier)))
    if loading:
        thread.start()
        time.sleep(rng.uniform(0.0, 0.04))
    else:
        done.append(one.load(tier))
        time.sleep(rng.uniform(0.05, 0.5))
    one.nodes[tier].kill()
    if loading:
        thread.join()
    one.again(tier)
    one.settle(tier, done[0])


def pusher_killed(one: Rig, rng: random.Random) -> None:
    """One death of a client that loads a new version."""
    node, versions = one.nodes["mobile"], one.versions["mobile"]
    command = [sys.executable, "-c", _PUSHER, node.unix, *(str(each.directory) for each in one.artifacts)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as pusher:
        assert pusher.stdin is not None
        assert pusher.stdout is not None
        pusher.stdout.readline()
        versions.begin(1 - versions.newest)
        pusher.stdin.write(f"{versions.newest}\n")
        pusher.stdin.flush()
        time.sleep(rng.uniform(0.0, 0.012))
        pusher.kill()
        acknowledged = "done" in pusher.stdout.read()
    if acknowledged:
        versions.end()
        one.loads["acknowledged"] += 1
    # What was pushed whole may still be on its way into service.
    time.sleep(0.3)
    one.settle("mobile", acknowledged)


def run(case: str, kills: int) -> dict[str, Any]:
    """The figures of one case."""
    rng, (who, what) = random.Random(case), case.split()
    with tempfile.TemporaryDirectory(prefix="tw-") as folder, rig(Path(folder)) as one:
        for _ in range(kills):
            time.sleep(0.2)
            if who == "client":
                pusher_killed(one, rng)
            else:
                killed(one, who, rng, loading=what == "loading")
        time.sleep(0.2)
        found: dict[str, Any] = {"kills": kills, "loads": one.loads}
    counts = [asked.figures() for asked in one.asked.values()]
    found |= {key: sum(each[key] for each in counts) for key in ("answered", "wrong", "unanswered")}
    for name, times_s in (("ready", one.ready_s), ("serving", one.serving_s)):
        if times_s:
            found |= {f"{name}_median_s": statistics.median(times_s), f"{name}_longest_s": max(times_s)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", action="append", choices=CASES, help="Several times for several cases.")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment, path = read_environment(), RESULTS / "faults-kill.json"
    stored: dict[str, Any] = json.loads(path.read_text())["kills"] if arguments.save and path.exists() else {}
    for case in arguments.only or CASES:
        stored[case] = run(case, arguments.kills)
        print(json.dumps({case: stored[case]}), flush=True)
    if arguments.save:
        content = {"kills": stored, "environment": msgspec.to_builtins(environment)}
        path.write_text(json.dumps(content, indent=1) + "\n")
    if any(found["wrong"] or found["loads"]["lost"] for found in stored.values()):
        raise SystemExit("an answer was wrong, or an acknowledged load was lost: see above")


if __name__ == "__main__":
    main()
