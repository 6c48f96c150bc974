"""Means, differences and tables of what `training_transfers.py` stored; not run by itself."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

METHODS = ("full", "sparse", "last-k", "searched", "bias", "head")
MUST = ("full", "sparse", "last-k")
Cell = dict[str, Any]
_T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}


def figures(asked: Cell, cells: Sequence[Cell]) -> Cell:
    """Means and differences from what ``cells`` answered, over the seeds that all of ``MUST`` have."""
    rates, schemes = asked["rates"], asked["schemes"]
    kept = {m: {c["seed"]: c for c in cells if c["method"] == m and _is_chosen(c, rates)} for m in METHODS}
    seeds = sorted(set.intersection(*(set(kept[m]) for m in MUST)))
    whole = {m: [kept[m][seed] for seed in seeds] for m in METHODS if m in schemes and set(seeds) <= set(kept[m])}
    return {
        "seeds": seeds,
        "methods": {
            m: {
                "test": statistics.mean(c["test"] for c in found),
                "test_of_seeds": [c["test"] for c in found],
                "predicted_bytes": schemes[m][1],
                "trained_values": found[0]["trained_values"],
                "cpu_s": statistics.median(c["cpu_s"] for c in found),
            }
            for m, found in whole.items()
            if found
        },
        "minus": {
            mine: {m: paired(whole[mine], whole[m], asked["test_items"]) for m in whole if m != mine}
            for mine in ("sparse", "searched")
            if whole.get(mine)
        },
    }


def _is_chosen(cell: Cell, rates: Mapping[str, float]) -> bool:
    return "test" in cell and cell["rate"] == rates.get(cell["method"])


def paired(mine: list[Cell], other: list[Cell], items: int) -> Cell:
    """Difference of test accuracies in points: over seeds (Student's t), and over items (means over seeds; normal)."""
    gaps = [100 * (a["test"] - b["test"]) for a, b in zip(mine, other, strict=True)]
    half = _T95[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    bits = [
        [np.unpackbits(np.frombuffer(base64.b64decode(c["right"]), np.uint8))[:items] for c in cs]
        for cs in (mine, other)
    ]
    each = 100 * (np.mean(bits[0], axis=0) - np.mean(bits[1], axis=0))
    by_items = 1.96 * float(each.std(ddof=1)) / math.sqrt(items)
    mean = statistics.mean(gaps)
    return {"points": mean, "over_seeds": [mean - half, mean + half], "over_items": [mean - by_items, mean + by_items]}


def rows(found: Cell) -> Iterator[str]:
    """The table of one transfer, as docs/training/accuracy.md shows it."""
    mines = list(found["minus"])
    heads = "".join(f" {mine} minus this, points: over seeds (t), over items |" for mine in mines)
    yield f"| trained | test accuracy, % | predicted memory, MB |{heads}"
    yield "|---|---|---|" + "---|" * len(mines)
    for method, row in found["methods"].items():
        told = method if method != "last-k" else f"last-{found['schemes'][method][0]['whole']}"
        gaps = [found["minus"][mine].get(method) for mine in mines]
        ends = "".join(f" {_gap(gap)} |" for gap in gaps)
        yield f"| {told} | {100 * row['test']:.1f} | {row['predicted_bytes'] / 1e6:.2f} |{ends}"


def _gap(gap: Cell | None) -> str:
    if gap is None:
        return ""
    return f"{gap['points']:+.1f} {_range(gap['over_seeds'])}, {_range(gap['over_items'])}"


def _range(ends: list[float]) -> str:
    return f"[{ends[0]:+.1f}, {ends[1]:+.1f}]"
