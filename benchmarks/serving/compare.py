"""Our node beside MLServer, LitServe and BentoML: the same two ONNX models, the same load, one core each.

    python benchmarks/serving/compare.py [--rounds 5] [--home FOLDER] [--only SERVER ...] [--save [--more]]

Every server runs pinned to one core with one thread, the load generator (h2load) on another. Peers come from the
package index into virtual environments of their own under ``--home``; one that cannot be installed is left out, with
the reason. Servers that can batch run twice, with and without, and are judged by their better figure. In every round
the servers take turns in random order. The overhead of a request is its latency from a single client less the median
of the bare ONNX Runtime call, timed in the same round on the server's core. Answers are checked before, and their sizes
while the load is on. ``--save`` writes the figures and the environment to docs/results/serving.json; ``--more`` adds
the rounds to those that are there, for machines that cannot stand still for all of them at once. ``--only`` measures
some of the servers; what is stored of the others stays, and the file says under ``kept`` when and where that was made.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from load import Seen, put_load
from models import Subject, make_subjects
from servers import BATCH, PEERS, Running, install, tierwise_node

from tierwise.measure import read_environment

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
CLIENTS = (1, 8, 64)
REQUESTS = {"no-op": {1: 1000, 8: 3000, 64: 6000}, "resnet20": {1: 400, 8: 1000, 64: 2000}}
_BARE = """
import sys, time, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x, took = np.load(sys.argv[2]), []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    session.run(None, {"x": x})
    took.append(time.perf_counter() - start)
print(float(np.median(took[len(took) // 5 :])))
"""
Start = Callable[[Path], contextlib.AbstractContextManager[Running]]


def cores() -> tuple[list[str], list[str]]:
    """How commands are pinned to the server's core and to the load's."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    return ["taskset", "-c", str(usable[0])], ["taskset", "-c", str(usable[1])]


def starts(subject: Subject, home: Path, prefix: list[str], missing: dict[str, str]) -> dict[str, Start]:
    """Every server, without batching and with it."""

    def of(peer, batch: int) -> Start:
        return lambda scratch: peer.run(home, subject, batch, scratch, prefix)

    def ours(batch: int) -> Start:
        return lambda scratch: tierwise_node(subject, batch, scratch, prefix)

    chosen: dict[str, Start] = {f"tierwise {batch}": ours(batch) for batch in (1, BATCH)}
    for peer in PEERS:
        if peer.name not in missing:
            chosen |= {f"{peer.name} {batch}": of(peer, batch) for batch in (1, BATCH)}
    return chosen


def bare_s(subject: Subject, scratch: Path, prefix: list[str]) -> float:
    """Median seconds of the ONNX Runtime call alone, on the server's core."""
    request = scratch / "request.npy"
    np.save(request, subject.request)
    command = [*prefix, sys.executable, "-c", _BARE, str(subject.file), str(request), "400"]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def one_round(
    subject: Subject, home: Path, missing: dict[str, str], only: list[str], rng: random.Random, rows: list[dict]
) -> None:
    """Each server once, in random order."""
    server_core, load_core = cores()
    with tempfile.TemporaryDirectory(prefix="tw-") as name:
        scratch = Path(name)
        every = starts(subject, home, server_core, missing)
        chosen = [(label, start) for label, start in every.items() if not only or label.split()[0] in only]
        rng.shuffle(chosen)
        for label, start in chosen:
            try:
                with start(scratch) as running:
                    bare = bare_s(subject, scratch, server_core)
                    for way in running.ways:
                        put_load(way.call, clients=8, requests=200, prefix=load_core)  # warm-up
                        for clients in CLIENTS:
                            count = REQUESTS[subject.name][clients]
                            seen = put_load(way.call, clients=clients, requests=count, prefix=load_core)
                            rows.append(row(subject, running, way.protocol, clients, seen, bare))
            except RuntimeError as error:
                logs = {log.stem: log.read_text(errors="replace")[-1500:] for log in scratch.glob("*.log")}
                print(f"{label}: {error}\n{logs.get(label.replace(' ', '-'), '')}", file=sys.stderr)
                missing[label.split()[0]] = str(error)


def row(subject: Subject, running: Running, protocol: str, clients: int, seen: Seen, bare: float) -> dict:
    """The figures of one load."""
    return {
        "model": subject.name,
        "server": running.name,
        "protocol": protocol,
        "clients": clients,
        "overhead_p50_s": float(np.median(seen.latencies_s)) - bare if len(seen.latencies_s) else None,
        "overhead_p99_s": float(np.quantile(seen.latencies_s, 0.99)) - bare if len(seen.latencies_s) else None,
        "bare_s": bare,
        "per_s": seen.per_s,
        "failed": seen.failed,
        "answer_bytes": seen.answer_bytes,
        "started_s": running.started_s,
        "resident_bytes": running.resident_bytes,
        "empty_bytes": running.empty_bytes,
    }


def server_of(entry: dict) -> str:
    """Name of a row's server, however it batched."""
    return entry["server"].split(",")[0]


def summary(rows: list[dict]) -> list[dict]:
    """Median and range over the rounds of every (model, server, protocol)."""
    cells = defaultdict(list)
    for entry in rows:
        cells[entry["model"], entry["server"], entry["protocol"], entry["clients"]].append(entry)
    result = []
    for (model, server, protocol, clients), entries in cells.items():
        figures = {"model": model, "server": server, "protocol": protocol, "clients": clients}
        for key in ("overhead_p50_s", "overhead_p99_s", "per_s", "started_s", "resident_bytes", "empty_bytes"):
            known = [entry[key] for entry in entries if entry[key] is not None]
            if known:
                figures[key] = {"median": statistics.median(known), "low": min(known), "high": max(known)}
        figures["failed"] = sum(entry["failed"] for entry in entries)
        result.append(figures)
    return result


def print_table(figures: list[dict]) -> None:
    """What a person reads."""
    single = {(f["model"], f["server"], f["protocol"]): f for f in figures if f["clients"] == 1}
    for model in dict.fromkeys(f["model"] for f in figures):
        print(
            f"\n{model}: overhead in µs at one client (p50 [range], p99), answers a second at 1, 8, 64 clients, "
            "MB, s to start"
        )
        for (named, server, protocol), entry in single.items():
            if named != model:
                continue
            p50, p99 = entry["overhead_p50_s"], entry["overhead_p99_s"]
            rates = [
                f["per_s"]["median"]
                for f in figures
                if (f["model"], f["server"], f["protocol"]) == (model, server, protocol)
            ]
            p50_us, low_us, high_us = (round(1e6 * p50[key]) for key in ("median", "low", "high"))
            print(
                f"{server + ' ' + protocol:<36}{p50_us:8} [{low_us}, {high_us}]{1e6 * p99['median']:9.0f}"
                + "".join(f"{rate:8.0f}" for rate in rates)
                + f"{entry['resident_bytes']['median'] / 1e6:8.0f}{entry['started_s']['median']:7.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache" / "tierwise-peers")
    parser.add_argument("--only", nargs="+", default=[], choices=["tierwise", *(peer.name for peer in PEERS)])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--more", action="store_true")
    arguments = parser.parse_args()
    saved = RESULTS / "serving.json"
    only = arguments.only
    before = json.loads(saved.read_text()) if arguments.more or only else {"rows": []}
    others = [entry for entry in before["rows"] if only and server_of(entry) not in only]
    again = [entry for entry in before["rows"] if arguments.more and entry not in others]
    rounds_before = before["rounds"] if arguments.more else 0
    missing = {peer.name: why for peer in PEERS if (why := install(peer, arguments.home)) is not None}
    for name, why in missing.items():
        print(f"{name} is left out: {why}")
    environment, rows, began_s = read_environment(), others + again, time.monotonic()
    rng, rounds = random.Random(rounds_before), rounds_before + arguments.rounds
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        subjects = make_subjects(Path(folder))
        for number in range(arguments.rounds):
            for subject in subjects:
                one_round(subject, arguments.home, missing, only, rng, rows)
            print(f"round {number + 1} of {arguments.rounds}, {time.monotonic() - began_s:.0f} s", flush=True)
    figures = summary(rows)
    print_table(figures)
    if arguments.save:
        chosen = " --only " + " ".join(only) if only else ""
        versions = {peer.name: _version(peer.name, arguments.home) for peer in PEERS if peer.name not in missing}
        content = {
            "command": f"python benchmarks/serving/compare.py --rounds {rounds}{chosen} --save",
            "rounds": rounds,
            "figures": figures,
            "rows": rows,
            "missing": missing,
            "versions": {"tierwise": importlib.metadata.version("tierwise"), **versions},
            "environment": msgspec.to_builtins(environment),
        }
        if others:
            kept = {"servers": sorted({server_of(entry) for entry in others})}
            content["kept"] = before.get("kept") or kept | {key: before[key] for key in ("rounds", "environment")}
        RESULTS.mkdir(parents=True, exist_ok=True)
        saved.write_text(json.dumps(content, indent=1) + "\n")


def _version(name: str, home: Path) -> str:
    found = next((home / name).glob(f"lib/python*/site-packages/{name}-*.dist-info"))
    return found.name.removesuffix(".dist-info").rsplit("-", 1)[1]


if __name__ == "__main__":
    main()
