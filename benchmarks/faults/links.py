"""Links and nodes that fail under load, and what an adaptive pipeline makes of it.

    python benchmarks/faults/links.py [--cycles 50] [--kills 10] [--seconds 60] [--only NAME] [--save]

Three variants of a small convolution network (on the device, cut in two, whole above) stand on two real nodes with a
shaped link between them (20 Mbit/s, 10 ms). Four threads ask without a pause; every answer is compared with what the
variant that made it answers in this process. ``--save`` writes docs/results/faults-links.json.

* ``cut-proxy``: the link falls silent (its process is stopped) and comes back; TCP does not notice.
* ``cut-tun``: the link's interface goes down and up: packets are lost, TCP retransmits ever more rarely. Needs root.
* ``cut-long``: the same, for 20 seconds three times.
* ``kill``: the node above dies by SIGKILL and is started again.
* ``loss``: one packet in ten is lost, both ways, on real TCP. Needs root.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
from parts import RESULTS, Node, given, variant

from tierwise.measure import read_environment, summarise
from tierwise.runtime import AdaptivePipeline, BreakerSpec, Executor, Paths, PathSpec, Placed, Share, deploy
from tierwise.testbed import LinkMeans, Network, ProxyMeans, Spawner, TunMeans
from tierwise.topology import Link, Tier, Topology

THREADS, INPUTS, DEADLINE_S = 4, 16, 0.25
# Five seconds for TCP, the breaker's longest wait and a fifth, a deadline, the dwell time.
RETURN_S = 6.7
BREAKER = BreakerSpec(failures=3, first_wait_s=0.2, longest_wait_s=1.0)


@dataclass
class Rig:
    """Two nodes, a link, three variants, and what each answers."""

    paths: Paths
    network: Network
    above: Node
    inputs: list[dict[str, Any]]
    expected: dict[str, list[Any]]


@contextmanager
def rig(means: LinkMeans, loss_frac: float = 0.0) -> Iterator[Rig]:
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=10**9) for name in ("device", "above"))
    link = Link(lower="device", upper="above", up_bps=20e6, down_bps=20e6, rtt_s=0.01, loss_frac=loss_frac)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-")))
        spawner = stack.enter_context(Spawner(folder))
        network = stack.enter_context(means.network(Topology(name="rig", tiers=tiers, links=(link,)), spawner))
        nodes = {
            tier.name: Node(folder, tier.name, network.listen_host(tier.name), network.prefix(tier.name))
            for tier in tiers
        }
        for name, one in nodes.items():
            if network.carries_packets:  # whatever the machine uses: Reno is allowed in every namespace
                setting = "echo reno > /proc/sys/net/ipv4/tcp_congestion_control"
                subprocess.run([*network.prefix(name), "sh", "-c", setting], check=True)
            one.start()
            stack.callback(one.kill)
        above = network.address("device", "above", int(nodes["above"].tcp.rpartition(":")[2]))
        device, upper = nodes["device"].unix, nodes["above"].unix
        variants = {
            "local": variant(folder, "small", 4, 1, cut=False),
            "split": variant(folder, "cut", 8, 2, cut=True),
            "offload": variant(folder, "large", 64, 3, cut=False),
        }
        shares = {
            "local": [Placed(control=device, share=Share())],
            "split": [
                Placed(control=device, share=Share(segments=(0, 1), forward=above)),
                Placed(control=upper, share=Share(segments=(1, 2))),
            ],
            "offload": [
                Placed(control=device, share=Share(segments=(0, 0), forward=above)),
                Placed(control=upper, share=Share()),
            ],
        }
        for name, artifact in variants.items():
            deploy(artifact, name, shares[name])

        inputs = given(INPUTS)
        executors = {name: Executor(artifact, threads=1) for name, artifact in variants.items()}
        expected = {name: [one.run(each)["y"] for each in inputs] for name, one in executors.items()}
        paths = tuple(
            PathSpec(name=name, accuracy_frac=accuracy, node=device, model=name, link=over)
            for name, accuracy, over in (("offload", 0.95, "up"), ("split", 0.9, "up"), ("local", 0.8, None))
        )
        spec = Paths(paths=paths, deadline_s=DEADLINE_S, breaker=BREAKER, dwell_s=0.2, refresh_s=2.0)
        yield Rig(spec, network, nodes["above"], inputs, expected)


@dataclass
class Load:
    """Threads that ask without a pause and check every answer."""

    rig: Rig
    pipeline: AdaptivePipeline
    asked: int = 0
    answered: int = 0
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    by: Counter[str] = field(default_factory=Counter)
    remote_at_s: float = 0.0

    def __post_init__(self) -> None:
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(THREADS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        while not self._stop.is_set():
            sample, begun_s = rng.randrange(INPUTS), time.monotonic()
            with self._lock:
                self.asked += 1
            try:
                reply = self.pipeline.infer(self.rig.inputs[sample])
            except Exception as error:
                with self._lock:
                    self.failed.append(f"{type(error).__name__}: {error}")
                continue
            done_s = time.monotonic()
            right = np.allclose(reply.outputs["y"], self.rig.expected[reply.made_by][sample], atol=1e-4)
            with self._lock:
                self.answered += 1
                self.wrong += not right
                self.latencies_s.append(done_s - begun_s)
                self.by[f"{reply.made_by}: {reply.why}"] += 1
                if reply.made_by != "local":
                    self.remote_at_s = begun_s

    def returned_s(self, since_s: float, patience_s: float = RETURN_S) -> float:
        """Seconds after ``since_s`` at which a request was sent that a remote path answered; raises where none is."""
        while time.monotonic() - since_s < patience_s:
            with self._lock:
                if self.remote_at_s > since_s:
                    return self.remote_at_s - since_s
            time.sleep(0.002)
        raise SystemExit(f"no remote answer within {patience_s:g} s: {self.pipeline.facts()}")

    def figures(self, returns_s: list[float] | None = None) -> dict[str, Any]:
        """What was counted."""
        facts = self.pipeline.facts()
        summary = summarise(self.latencies_s)
        found: dict[str, Any] = {
            "asked": self.asked,
            "answered": self.answered,
            "unanswered": self.asked - self.answered,
            "wrong": self.wrong,
            "answered_twice": sum(facts.answered.values()) - self.answered,
            "late_answers_dropped": facts.late,
            "after_deadline": sum(one > DEADLINE_S for one in self.latencies_s),
            "p50_s": summary.p50.value_s,
            "p99_s": summary.p99.value_s if summary.p99 else None,
            "longest_s": max(self.latencies_s),
            "switches": facts.switches,
            "by": dict(self.by.most_common()),
            "errors": sorted(set(self.failed))[:5],
        }
        if returns_s:
            found |= {"return_median_s": statistics.median(returns_s), "return_longest_s": max(returns_s)}
            found["returns"] = len(returns_s)
        return found


def faults(
    means: LinkMeans,
    cycles: int,
    broken: Callable[[Rig, float], None],
    rest_s: float,
    outage_s: tuple[float, float] = (0.3, 2.0),
) -> dict[str, Any]:
    """``cycles`` times: break, mend, wait until a remote path answers again, rest."""
    rng, returns_s = random.Random(0), []
    with rig(means) as one, AdaptivePipeline(one.paths, seed=0) as pipeline, Load(one, pipeline) as load:
        load.returned_s(time.monotonic(), 30.0)
        for _ in range(cycles):
            broken(one, rng.uniform(*outage_s))
            returns_s.append(load.returned_s(time.monotonic()))
            time.sleep(rest_s)
        load.__exit__()
        return load.figures(returns_s)


def silent(_: Rig, seconds: float) -> None:
    """Nothing passes, and nobody is told."""
    carriers = [one for one in psutil.Process().children() if "tierwise.testbed._proxy" in " ".join(one.cmdline())]
    for one in carriers:
        one.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    for one in carriers:
        one.send_signal(signal.SIGCONT)


def interface(one: Rig, seconds: float) -> None:
    """The device's end of the link goes down; what was on the way is lost."""
    for state in ("down", "up"):
        command = ["ip", "link", "set", "tw-up", state]
        subprocess.run([*one.network.prefix("device"), *command], check=True)
        if state == "down":
            time.sleep(seconds)


def killed(one: Rig, seconds: float) -> None:
    """The node above dies and is started again; the time until it is ready is part of the outage."""
    one.above.kill()
    time.sleep(seconds / 2)
    one.above.start()


def lossy(means: LinkMeans, seconds: float) -> dict[str, Any]:
    with rig(means, loss_frac=0.1) as one, AdaptivePipeline(one.paths, seed=0) as pipeline, Load(one, pipeline) as load:
        time.sleep(seconds)
        load.__exit__()
        return load.figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", action="append", help="Name of a fault; several times for several.")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment = read_environment()
    tun = TunMeans()
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "cut-proxy": lambda: faults(ProxyMeans(), arguments.cycles, silent, 0.5),
        "cut-tun": lambda: faults(tun, arguments.cycles, interface, 0.5),
        "cut-long": lambda: faults(tun, 3, interface, 0.5, (20.0, 20.0)),
        "kill": lambda: faults(ProxyMeans(), arguments.kills, killed, 1.0),
        "loss": lambda: lossy(tun, arguments.seconds),
    }
    path = RESULTS / "faults-links.json"
    found: dict[str, Any] = json.loads(path.read_text())["faults"] if arguments.save and path.exists() else {}
    for name in arguments.only or ways:
        if name in ("cut-tun", "cut-long", "loss") and not tun.availability().ok:
            print(f"{name}: skipped ({tun.availability().reason})")
            continue
        found[name] = ways[name]()
        print(name, json.dumps(found[name], indent=1), flush=True)
    if arguments.save:
        link = {"rate_bps": 20e6, "rtt_s": 0.01, "deadline_s": DEADLINE_S, "threads": THREADS}
        content = {"link": link, "breaker": msgspec.to_builtins(BREAKER), "faults": found}
        content["environment"] = msgspec.to_builtins(environment)
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
