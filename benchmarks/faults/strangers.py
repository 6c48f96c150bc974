"""Strangers at a node's doors, and what its good clients notice.

    python benchmarks/faults/strangers.py [--requests 10000] [--idle 3000] [--slow 300] [--seconds 30] [--save]

One real node; meanwhile a good client over gRPC and one over REST ask every 5 ms and check every answer.

* ``nobody``: for comparison.
* ``bad requests``: so many of `callers.BAD`'s kinds in turn, from four clients at once; each must be refused as its own
  fault.
* ``random bytes``: connections to both doors that send random bytes, HTTP/2 with random frames, and heads cut off.
* ``slow``: for ``--seconds``, clients that send the head or the body of a request one byte a second, and HTTP/2
  connections that stop after the preface or in the middle of a request.
* ``idle``: so many connections to each door that send nothing.

After each the node must hold at most 5 % more memory than before (it has seen one of everything by then), and no more
files than it had. ``--save`` writes docs/results/faults-strangers.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from callers import BAD, Bad, GrpcCaller, RestCaller, callers, fine
from parts import RESULTS, Node, Usage, given, variant
from versions import Versions

from tierwise.artifact import read_files
from tierwise.measure import read_environment
from tierwise.runtime import Executor
from tierwise.wire import InferenceClient

MOST_GROWTH, CLIENTS = 0.05, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
# HEADERS of a POST without the end of the headers, then nothing.
OPEN_HEADERS = bytes((0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83))
HEAD = b"POST /v2/models/own/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 49152\r\n\r\n"


@dataclass
class Asked:
    """How much of everything."""

    requests: int
    idle: int
    slow: int
    seconds: float


def connected(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def bad_requests(node: Node, asked: Asked) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    kinds, lock = list(BAD), threading.Lock()

    def run(first: int) -> None:
        bad = Bad(node.tcp, node.rest_address, "own", first)
        for number in range(first, asked.requests, CLIENTS):
            kind = kinds[number % len(kinds)]
            outcome = bad.send(kind)
            with lock:
                outcomes[outcome if fine(outcome) else f"{kind}: {outcome}"] += 1
        bad.close()

    threads = [threading.Thread(target=run, args=(first,)) for first in range(CLIENTS)]
    begun_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    odd = {outcome: count for outcome, count in outcomes.items() if not fine(outcome)}
    found = {"requests": outcomes.total(), "kinds": len(kinds), "seconds": time.monotonic() - begun_s}
    return found | {"outcomes": dict(outcomes.most_common()), "not_refused": odd}


def random_bytes(node: Node, asked: Asked) -> dict[str, Any]:
    rng = random.Random(2)

    def frame() -> bytes:
        body = rng.randbytes(rng.randrange(40))
        return len(body).to_bytes(3, "big") + bytes((rng.randrange(12), rng.randrange(256))) + rng.randbytes(4) + body

    makers: tuple[Callable[[], bytes], ...] = (
        lambda: rng.randbytes(rng.randrange(1, 4000)),
        lambda: PREFACE + SETTINGS + b"".join(frame() for _ in range(20)),
        lambda: HEAD[: rng.randrange(1, len(HEAD))],
        lambda: b"GET / HTTP/1.1\r\n" + b"a" * rng.randrange(100_000) + b": b\r\n",
        lambda: HEAD + rng.randbytes(4096),
    )
    count = 0
    for number in range(asked.slow * 4):
        for address in (node.tcp, node.rest_address):
            with contextlib.suppress(OSError), connected(address) as one:
                one.sendall(makers[number % len(makers)]())
                one.settimeout(0.002)
                one.recv(1000)
            count += 1
    return {"connections": count}


def slow(node: Node, asked: Asked) -> dict[str, Any]:
    """A byte a second on each, until the time is over; counts who was let go meanwhile."""
    begins = [(node.rest_address, b""), (node.rest_address, HEAD), (node.tcp, PREFACE[:20])]
    begins += [(node.tcp, PREFACE + SETTINGS), (node.tcp, PREFACE + SETTINGS + OPEN_HEADERS)]
    drips = {b"": HEAD, HEAD: bytes(1000)}
    held: list[tuple[socket.socket, bytes]] = []
    for number in range(asked.slow):
        address, begin = begins[number % len(begins)]
        with contextlib.suppress(OSError):
            one = connected(address)
            one.sendall(begin)
            held.append((one, drips.get(begin, b"")))
    most, ends_s = Usage.of(node.pid), time.monotonic() + asked.seconds
    second, let_go = 0, set[int]()
    while time.monotonic() < ends_s:
        for number, (one, drip) in enumerate(held):
            try:
                one.sendall(drip[second : second + 1])
                one.setblocking(False)
                if one.recv(4096) == b"":
                    let_go.add(number)
            except BlockingIOError:
                pass
            except OSError:
                let_go.add(number)
            one.settimeout(10)
        second += 1
        most = max(most, Usage.of(node.pid), key=lambda usage: usage.files)
        time.sleep(1.0)
    for one, _ in held:
        one.close()
    return {"connections": len(held), "seconds": asked.seconds, "let_go": len(let_go), "most": asdict(most)}


def idle(node: Node, asked: Asked) -> dict[str, Any]:
    held, refused = [], 0
    for number in range(2 * asked.idle):
        try:
            held.append(connected((node.tcp, node.rest_address)[number % 2]))
        except OSError:
            refused += 1
    time.sleep(min(asked.seconds, 10.0))
    most = Usage.of(node.pid)
    # New good clients come while all these are there.
    said = Counter(Bad(node.tcp, node.rest_address, "own", 0).rest("GET", "/v2/health/ready") for _ in range(20))
    with InferenceClient(node.tcp) as late:
        alive = late.live()
    for one in held:
        one.close()
    found = {"connections": len(held), "not_connected": refused, "most": asdict(most)}
    return found | {"new_clients": {"grpc_live": alive, "rest": dict(said)}}


def nobody(node: Node, asked: Asked) -> dict[str, Any]:
    time.sleep(min(asked.seconds, 10.0))
    return {}


STRANGERS: dict[str, Callable[[Node, Asked], dict[str, Any]]] = {
    "nobody": nobody,
    "bad requests": bad_requests,
    "random bytes": random_bytes,
    "slow": slow,
    "idle": idle,
}


def settled(node: Node, at_most: Usage | None = None) -> Usage:
    """What the node holds once what was closed is gone there too."""
    for _ in range(100):
        usage = Usage.of(node.pid)
        if at_most is None or usage.files <= at_most.files:
            break
        time.sleep(0.2)
    time.sleep(0.5)
    return Usage.of(node.pid)


def visited(node: Node, names: list[str], asked: Asked, folder: Path) -> dict[str, Any]:
    """What came of each kind of stranger."""
    artifact, inputs = variant(folder, "own", 16, 40, cut=False), given(16)
    versions = Versions([[Executor(artifact, threads=1).run(each)["y"] for each in inputs]])
    with InferenceClient(node.unix) as client:
        versions.begin(0)
        client.load("own", None, read_files(artifact))
        versions.end()

    def once(name: str, part: float) -> dict[str, Any]:
        some = [int(part * count) for count in (asked.requests, asked.idle, asked.slow)]
        if name == "idle":
            some[1] = asked.idle
        before = settled(node)
        over_grpc = callers(lambda: GrpcCaller(node.tcp), "own", inputs, versions.right, 0.005)
        over_rest = callers(lambda: RestCaller(node.rest_address), "own", inputs, versions.right, 0.005)
        with over_grpc as by_grpc, over_rest as by_rest:
            time.sleep(1.0)
            figures = STRANGERS[name](node, Asked(*some, part * asked.seconds))
        after = settled(node, before)
        good = {"grpc": by_grpc.figures(), "rest": by_rest.figures()}
        growth = {"growth_frac": after.rss_bytes / before.rss_bytes - 1}
        return figures | {"good": good, "before": asdict(before), "after": asdict(after)} | growth

    found: dict[str, Any] = {}
    for name in names:
        # The first rounds are for what is allocated once. What connections took is used again and not given back, and
        # settles after some waves of them.
        first, *others = [once(name, 0.1) for _ in range(5 if name == "idle" else 1)]
        settled_bytes = (others or [first])[-1]["after"]["rss_bytes"]
        found[name] = once(name, 1.0) | {"first_growth_frac": settled_bytes / first["before"]["rss_bytes"] - 1}
        print(json.dumps({name: found[name]}), flush=True)
    return found


def failures(found: dict[str, Any], alive: bool) -> list[str]:
    """What must not be."""
    said = [] if alive else ["the node is gone"]
    for name, one in found.items():
        for front, good in one["good"].items():
            if good["wrong"] or good["unanswered"]:
                said.append(f"{name}: good clients over {front} got {good}")
        if one.get("not_refused"):
            said.append(f"{name}: not refused: {one['not_refused']}")
        if one["growth_frac"] > MOST_GROWTH or one["after"]["files"] > one["before"]["files"] + 5:
            said.append(f"{name}: it holds more than before: {one['before']} and {one['after']}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=3000, help="Connections to each door.")
    parser.add_argument("--slow", type=int, default=300, help="Connections.")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", action="append", choices=list(STRANGERS), help="Several times for several.")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    environment = read_environment()
    asked = Asked(arguments.requests, arguments.idle, arguments.slow, arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        node = Node(Path(folder), "visited", rest=True)
        node.start()
        try:
            found = visited(node, arguments.only or list(STRANGERS), asked, Path(folder))
            alive = node.process is not None and node.process.poll() is None
        finally:
            node.kill()
    if arguments.save:
        path = RESULTS / "faults-strangers.json"
        stored = json.loads(path.read_text())["strangers"] if path.exists() else {}
        content = {"asked": asdict(asked), "strangers": stored | found, "environment": msgspec.to_builtins(environment)}
        path.write_text(json.dumps(content, indent=1) + "\n")
    if said := failures(found, alive):
        raise SystemExit("\n".join(said))


if __name__ == "__main__":
    main()
