"""How near a split pipeline over a shaped link comes to head + bytes / rate + round trip + tail.

    python benchmarks/split_pipeline.py [--requests 40] [--means tun] [--means proxy] [--save]

A ResNet-20 is cut in two and served by two real nodes, twice: over a shaped link, and with nothing between the nodes.
In every round both answer, in random order, so that a machine that changes its pace hits both alike. What the split
takes without a link is head + tail; bytes are those of the messages with the headers of their packets, as the link
counts them. ``after idle`` leaves a second and a half between requests: TCP then begins each with its initial window,
and the time it waits for acknowledgements is predicted too; with ``window kept`` the kernels do not fall back to it
(``tcp_slow_start_after_idle = 0`` on both machines).

Weights and inputs are random: neither decides how long it takes. ``--save`` writes docs/results/split-pipeline.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tierwise.artifact import Artifact, Manifest, Provenance, Segment, TensorInput, TensorSpec, write_artifact
from tierwise.measure import read_environment
from tierwise.runtime import Pipeline, Placed, Share, deploy
from tierwise.testbed import LinkMeans, Spawner, all_link_means
from tierwise.topology import Link, Tier, Topology

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
RATES_BPS = (2e6, 10e6, 50e6, 200e6)
RTTS_S = (0.002, 0.02, 0.05)
CUT_BYTES = 64 << 10
PAUSE_S = 1.5
IDLE, KEPT = "after idle", "after idle, window kept"
PACES = {"tun": ("busy", IDLE, KEPT), "netem": ("busy", IDLE, KEPT), "proxy": ("busy",)}
# A full segment: 1500 bytes on the link carry 1448.
ON_LINK = 1500 / 1448


def resnet20(folder: Path) -> Artifact:
    """Cut behind its first stage, where 64 KiB cross."""
    import torch

    from tierwise.capture import cut_points, export, read_graph, split
    from tierwise.tasks import ResNet, build_subject

    torch.manual_seed(0)
    module = build_subject(ResNet(depth=20), classes=10).eval()
    model = export(module, {"input": torch.randn(2, 3, 32, 32)}, ["logits"])
    fitting = [cut for cut in cut_points(read_graph(model)) if cut.bytes == CUT_BYTES]
    cut = fitting[-1]
    parts = split(model, cut)
    x, y = (TensorSpec(name=n, dtype="FP32", shape=s) for n, s in (("input", (-1, 3, 32, 32)), ("logits", (-1, 10))))
    segments = (
        Segment(file="head.onnx", inputs=(x,), outputs=(cut.tensor,), macs=cut.head_macs),
        Segment(file="tail.onnx", inputs=(cut.tensor,), outputs=(y,), macs=cut.tail_macs),
    )
    provenance = Provenance(task="", task_fingerprint="", chain="identity", specs=(), versions={})
    manifest = Manifest(
        name="r", input=TensorInput(tensors=(x,)), outputs=(y,), segments=segments, files=(), provenance=provenance
    )
    files = dict(zip(("head.onnx", "tail.onnx"), (part.SerializeToString() for part in parts), strict=True))
    return write_artifact(folder / "artifact", manifest, files)


def slow_start_s(size_bytes: int, rate_bps: float, rtt_s: float) -> float:
    """How long a sender waits for acknowledgements that begins with ten segments and doubles (RFC 6928, RFC 5681)."""
    segments, window, sent, waited_s = size_bytes / 1448, 10, 10, 0.0
    while sent < segments:
        waited_s += max(0.0, rtt_s - 8 * window * 1500 / rate_bps)
        window *= 2
        sent += window
    return waited_s


def set_kernel(prefix: list[str], name: str, value: str) -> None:
    """Set a TCP setting of one tier's namespace."""
    subprocess.run([*prefix, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}"], check=True)


@contextmanager
def two_ways(
    means: LinkMeans, link: Link, artifact: Artifact, *, keep_window: bool
) -> Iterator[tuple[Pipeline, Pipeline]]:
    """The split over the link, and the same without one."""
    tiers = tuple(Tier(name=name, cpus=1.0, memory_bytes=10**9) for name in (link.lower, link.upper))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-")))
        spawner = stack.enter_context(Spawner(folder))
        network = stack.enter_context(means.network(Topology(name="t", tiers=tiers, links=(link,)), spawner))
        ports = {}
        for tier in (link.lower, link.upper):
            listen = ["--listen", f"{network.listen_host(tier)}:0", "--listen", f"unix:{folder}/{tier}.sock"]
            if network.carries_packets:
                # Whatever the machine uses: Reno is allowed in every namespace and begins as RFC 5681 says.
                set_kernel(network.prefix(tier), "tcp_congestion_control", "reno")
                if keep_window:
                    set_kernel(network.prefix(tier), "tcp_slow_start_after_idle", "0")
            command = [*network.prefix(tier), sys.executable, "-m", "tierwise", "node", *listen, "--tier", tier]
            process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.terminate)
            assert process.stdout is not None
            ports[tier] = int(process.stdout.readline().split(" ready on ")[1].split(",")[0].rpartition(":")[2])
        lower, upper = (f"unix:{folder}/{tier}.sock" for tier in (link.lower, link.upper))
        over = network.address(link.lower, link.upper, ports[link.upper])
        pipelines = []
        for name, forward in (("linked", over), ("plain", upper)):
            head = Placed(control=lower, share=Share(segments=(0, 1), forward=forward))
            deploy(artifact, name, [head, Placed(control=upper, share=Share(segments=(1, 2)))])
            pipelines.append(stack.enter_context(Pipeline(lower, name, artifact.manifest.input)))
        yield pipelines[0], pipelines[1]


def cell(
    means: LinkMeans, artifact: Artifact, rate_bps: float, rtt_s: float, requests: int, pace: str
) -> dict[str, Any]:
    pause_s = 0.0 if pace == "busy" else PAUSE_S
    link = Link(lower="device", upper="above", up_bps=rate_bps, down_bps=rate_bps, rtt_s=rtt_s)
    x = {"input": np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)}
    took_s: dict[str, list[float]] = {"linked": [], "plain": []}
    order, shuffled = ["linked", "plain"], random.Random(0)
    with two_ways(means, link, artifact, keep_window=pace == KEPT) as (linked, plain):
        ways, carried = {"linked": linked, "plain": plain}, 0
        for i in range(requests + 10):
            shuffled.shuffle(order)
            for name in order:
                begun_s = time.perf_counter()
                reply = ways[name].infer(x)
                seconds = time.perf_counter() - begun_s
                if i >= 10:
                    took_s[name].append(seconds)
                carried = reply.bytes_up + reply.bytes_down
            time.sleep(pause_s if i >= 10 else 0.0)
    measured_s, computing_s = (statistics.median(took_s[name]) for name in ("linked", "plain"))
    predicted_s = computing_s + 8 * carried * ON_LINK / rate_bps + rtt_s
    if pace == IDLE:
        predicted_s += slow_start_s(carried, rate_bps, rtt_s)
    off_s = measured_s - predicted_s
    spread_s = statistics.quantiles(took_s["linked"], n=20)
    return {
        "means": means.name,
        "pace": pace,
        "rate_bps": rate_bps,
        "rtt_s": rtt_s,
        "bytes": carried,
        "head_and_tail_s": computing_s,
        "predicted_s": predicted_s,
        "measured_s": measured_s,
        "measured_p5_s": spread_s[0],
        "measured_p95_s": spread_s[-1],
        "off_s": off_s,
        "off_frac": off_s / predicted_s,
        "within": abs(off_s) <= max(0.002, 0.05 * predicted_s),
        "requests": requests,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--means", action="append", help="Link means [tun and proxy].")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    known: dict[str, Any] = {one.name: one for one in all_link_means()}
    environment, cells = read_environment(), []
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        artifact = resnet20(Path(folder))
        for name in arguments.means or ("tun", "proxy"):
            if not known[name].availability().ok:
                print(f"{name}: skipped ({known[name].availability().reason})")
                continue
            for pace, rate_bps, rtt_s in itertools.product(PACES[name], RATES_BPS, RTTS_S):
                if pace != "busy" and rate_bps < 10e6:
                    continue  # the rate keeps it waiting for longer than any window
                requests = arguments.requests if pace == "busy" else arguments.requests // 6
                found = cell(known[name], artifact, rate_bps, rtt_s, requests, pace)
                cells.append(found)
                times = " ".join(f"{1e3 * found[key]:8.2f}" for key in ("predicted_s", "measured_s", "off_s"))
                label = f"{name} {pace}, {rate_bps / 1e6:g} Mbit/s, {1e3 * rtt_s:g} ms"
                print(f"{label:<50} {times} ms {found['off_frac']:+.1%} {found['within']}", flush=True)
    if arguments.save:
        content = {"cells": cells, "environment": msgspec.to_builtins(environment)}
        (RESULTS / "split-pipeline.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
