"""Which way to an answer wins at which link: local, raw, JPEG, WebP, a plain cut, learnt bottlenecks at their rates.

    python benchmarks/crossover/measure.py OUT check     # the same answers as in one process, bytes on the wire
    python benchmarks/crossover/measure.py OUT rates     # 50 kbit/s to 200 Mbit/s at a round trip of 10 ms
    python benchmarks/crossover/measure.py OUT grid      # 0.1 to 10 Mbit/s x 1 to 100 ms x 0 to 1 % loss
    python benchmarks/crossover/measure.py OUT save      # all of it to docs/results/crossover.json
    python benchmarks/crossover/figures.py               # the tables, from that file

Two real nodes; the device has a tenth of a core (`docs/emulation.md`), frames cross a shaped link (TUN: real TCP).
Each cell is a file in OUT, what is there is not measured again, and ``--budget-s`` says when no further cell is begun.
In every cell all strategies answer in rounds, in random order. The models are trained briefly: how good they are is
another benchmark's matter (``benchmarks/bottlenecks.py``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from subjects import Pixels, Strategy, facts, pictures_of, strategies, task_in
from two_nodes import Request, Site, site

from tierwise.measure import read_environment
from tierwise.testbed import TunMeans
from tierwise.topology import Link

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
PACE = 0.1
RATES_BPS = (0.05e6, 0.1e6, 0.2e6, 0.5e6, 1e6, 2e6, 5e6, 10e6, 20e6, 50e6, 100e6, 200e6)
RATES_RTT_S = 0.01
GRID_RATES_BPS = (0.1e6, 0.3e6, 1e6, 3e6, 10e6)
GRID_RTTS_S = (0.001, 0.01, 0.03, 0.1)
GRID_LOSSES = (0.0, 0.003, 0.01)
PICTURES = 8
# Plain cuts are left out of the grid: there they never win, and take most of the time.
GRID_WITHOUT = ("partition", "partition+uint8")
LONGEST_S = 6.0


def fixed_link(rate_bps: float, rtt_s: float, loss_frac: float = 0.0) -> Link:
    """The link of a cell, alike both ways."""
    return Link(lower="device", upper="above", up_bps=rate_bps, down_bps=rate_bps, rtt_s=rtt_s, loss_frac=loss_frac)


def rounds(place: Site, chosen: Sequence[Strategy], pictures: Sequence[Pixels], spend_s: float) -> dict[str, Any]:
    """All strategies in random order, each as often as its share of the time allows (3 to 15 times)."""
    seen: dict[str, list[Request]] = {one.name: [] for one in chosen}
    counts: dict[str, int] = {}
    for one in chosen:
        place.ask(one, pictures[-1])  # connections open, buffers grow
        usual_s = place.ask(one, pictures[-1]).seconds
        counts[one.name] = min(15, max(3, round(spend_s / usual_s)))
    order = [one for one in chosen for _ in range(counts[one.name])]
    random.Random(0).shuffle(order)
    for one in order:
        seen[one.name].append(place.ask(one, pictures[len(seen[one.name]) % len(pictures)]))
    return {name: told(requests) for name, requests in seen.items()}


def told(requests: Sequence[Request]) -> dict[str, Any]:
    """Medians of a cell, and how far its median latency may be off."""
    seconds = [one.seconds for one in requests]
    middle_s = statistics.median(seconds)
    # 1.4826 x the median deviation is a normal distribution's standard deviation, and 1.2533 / sqrt(n) of that its
    # median's. One late request in a hundred does not move either.
    deviation_s = 1.4826 * statistics.median(abs(one - middle_s) for one in seconds)
    found = {
        "requests": len(seconds),
        "median_s": middle_s,
        "mean_s": statistics.fmean(seconds),
        "longest_s": max(seconds),
        "error_s": 1.2533 * deviation_s / len(seconds) ** 0.5,
    }
    for name in ("below_s", "above_s", "link_s", "up_bytes", "down_bytes"):
        found[name] = statistics.median(getattr(one, name) for one in requests)
    return found


def cell(link: Link, every: Sequence[Strategy], pictures: Sequence[Pixels], sent_bytes: dict[str, int]) -> Any:
    """One link."""
    chosen = [one for one in every if 8 * sent_bytes.get(one.name, 0) / link.up_bps < LONGEST_S]
    with site(TunMeans(), link, chosen, PACE) as place:
        spend_s = 1.2
        return {
            "rate_bps": link.up_bps,
            "rtt_s": link.rtt_s,
            "loss_frac": link.loss_frac,
            "strategies": rounds(place, chosen, pictures, spend_s),
        }


def check(every: Sequence[Strategy], pictures: Sequence[Pixels], labels: Sequence[int]) -> dict[str, Any]:
    """The whole test split through both nodes over a fast link, and in one process."""
    found: dict[str, Any] = {}
    with site(TunMeans(), fixed_link(500e6, 0.0), every, 1.0) as place:
        for one in every:
            expected = np.concatenate(
                [one.in_one_process(list(pictures[at : at + 50])) for at in range(0, len(pictures), 50)]
            )
            # One by one, as requests come: a batch may be summed in another order.
            alone = np.concatenate([one.in_one_process([picture]) for picture in pictures[:20]])
            before = place.carried()
            requests = [place.ask(one, picture) for picture in pictures]
            after = place.carried()
            got = np.concatenate([request.logits for request in requests])
            found[one.name] = {
                "items": len(pictures),
                "same_class": int((got.argmax(1) == expected.argmax(1)).sum()),
                "largest_difference": float(np.abs(got - expected).max()),
                "largest_difference_one_by_one": float(np.abs(got[:20] - alone).max()),
                "accuracy": float((got.argmax(1) == np.asarray(labels)).mean()),
                "up_bytes": statistics.fmean(request.up_bytes for request in requests),
                "down_bytes": statistics.fmean(request.down_bytes for request in requests),
                "wire_up_bytes": (after[0] - before[0]) / len(requests),
                "wire_down_bytes": (after[1] - before[1]) / len(requests),
                **facts(one),
            }
            print(
                f"{one.name}: { ({k: v for k, v in found[one.name].items() if k not in ('notes', 'spec')}) }",
                flush=True,
            )
    return found


def write(path: Path, content: Any) -> None:
    """All of it or nothing."""
    stage = path.with_suffix(".part")
    stage.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    stage.replace(path)


def cells_of(part: str) -> list[Link]:
    """The links of a part, those that cost most time spread evenly."""
    if part == "rates":
        return [fixed_link(rate_bps, RATES_RTT_S) for rate_bps in RATES_BPS]
    return [fixed_link(*one) for one in itertools.product(GRID_RATES_BPS, GRID_RTTS_S, GRID_LOSSES)]


def measure(part: str, out: Path, budget_s: float, load: Callable[[], tuple[Any, Any, Any]]) -> None:
    """The cells that are not measured yet."""
    begun_s = time.monotonic()
    todo = [one for one in cells_of(part) if not _file(out, part, one).exists()]
    if not todo:
        return
    every, pictures, _ = load()
    checked = json.loads((out / "check.json").read_text(encoding="utf-8"))["strategies"]
    sent_bytes = {name: one["up_bytes"] for name, one in checked.items()}
    if part == "grid":
        every = [one for one in every if one.name not in GRID_WITHOUT]
    for link in todo:
        if time.monotonic() - begun_s > budget_s:
            print("the budget is spent; the next call goes on", flush=True)
            return
        found = cell(link, every, pictures[:PICTURES], sent_bytes)
        write(_file(out, part, link), found)
        times = ", ".join(f"{name} {1e3 * one['median_s']:.0f}" for name, one in found["strategies"].items())
        took_s = time.monotonic() - begun_s
        print(
            f"{took_s:.0f} s: {link.up_bps / 1e6:g} Mbit/s {link.rtt_s:g} s {link.loss_frac:g}: {times} ms", flush=True
        )


def _file(out: Path, part: str, link: Link) -> Path:
    return out / f"{part}-{link.up_bps:.0f}-{link.rtt_s:g}-{link.loss_frac:g}.json"


def main() -> None:
    """One part of the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("part", choices=("check", "rates", "grid", "save"))
    parser.add_argument("--budget-s", type=float, default=200.0)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)

    def load() -> tuple[list[Strategy], list[Pixels], Sequence[int]]:
        task = task_in(asked.out)
        return list(strategies(task, asked.out)), pictures_of(task, "test"), task.splits["test"].labels

    environment = msgspec.to_builtins(read_environment())
    if asked.part == "check":
        write(asked.out / "check.json", {"strategies": check(*load()), "environment": environment})
    elif asked.part == "save":
        read = {
            part: [json.loads(_file(asked.out, part, one).read_text(encoding="utf-8")) for one in cells_of(part)]
            for part in ("rates", "grid")
        }
        checked = json.loads((asked.out / "check.json").read_text(encoding="utf-8"))
        settings = {"pace_frac": PACE, "pictures": PICTURES, "means": "tun", "congestion_control": "reno"}
        content = {"settings": settings, "check": checked["strategies"], **read, "environment": environment}
        write(RESULTS / "crossover.json", content)
    else:
        measure(asked.part, asked.out, asked.budget_s, load)


if __name__ == "__main__":
    main()
