"""Tables of the stored curves of learned bottlenecks, as docs/bottlenecks.md shows them.

    python benchmarks/bottlenecks_summary.py tiny-imagenet-20

Accuracies are of the test split: means over seeds, with the standard deviation where there are several. Tests between
methods are McNemar's, on the same items and by seed. Settings are read off the validation split.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from tierwise.measure import mcnemar

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
_NAME = re.compile(r"(?P<method>[\w-]+) (?P<setting>.+) seed (?P<seed>\d+)")
_OVERHEAD_BYTES = 13
"""Of a frame beside its payload."""
_PAIRS = (
    ("hnd", "ghnd"), ("ghnd", "bottlefit"), ("bottlefit", "joint"), ("bottlefit", "unfrozen"), ("joint", "unfrozen"),
    ("bottlefit-few-labels", "joint-few-labels"),
)  # fmt: skip
_NONE = "-"
_LOSSES = (0.02, 0.04, 0.08)
_PRICED = ("entropic-bottlefit-deep", "entropic-bottlefit-long", "entropic-bottlefit", "entropic-student")
"""Methods with a prior, whose bytes those of the others are divided by."""
_WHOLE_NUMBERS = ("unfrozen-long", "unfrozen", "bottlefit", "joint")
_INPUTS = ("bytes", "bytes_without_header")

Cell = Mapping[str, Any]
Curve = list[tuple[float, float]]


def read_cells(task: str) -> dict[str, Cell]:
    """Cells by name."""
    stored = json.loads((RESULTS / f"bottlenecks-{task}.json").read_text(encoding="utf-8"))
    return {cell["cell"]: cell for cell in stored["cells"]}


def by_setting(cells: Mapping[str, Cell]) -> dict[tuple[str, str], dict[int, Cell]]:
    """Cells of bottlenecks by (method, setting) and seed."""
    found: dict[tuple[str, str], dict[int, Cell]] = defaultdict(dict)
    for name, cell in cells.items():
        match = _NAME.fullmatch(name)
        if match is not None:
            found[match["method"], match["setting"]][int(match["seed"])] = cell
    return dict(found)


def right(cell: Cell, items: int) -> npt.NDArray[np.bool_]:
    """Which test items a cell answered rightly, [items]."""
    packed = np.frombuffer(base64.b64decode(cell["test"]["right"]), np.uint8)
    return np.unpackbits(packed, count=items).astype(bool)


def item_count(cell: Cell) -> int:
    """How many test items there are: the fewest that the packed answers and the accuracy agree on."""
    packed = base64.b64decode(cell["test"]["right"])
    hits = int(np.unpackbits(np.frombuffer(packed, np.uint8)).sum())
    return round(hits / cell["test"]["accuracy"])


def mean_of(cells: Mapping[int, Cell], split: str, key: str) -> float:
    """Over seeds."""
    return fmean(cell[split][key] for cell in cells.values())


def bytes_at(curve: Curve, wanted: float, *, most: bool = False) -> float | None:
    """Fewest bytes at which a curve of (bytes, accuracy) reaches ``wanted``, between its points on straight lines.

    A curve that lies above ``wanted`` all along needs at ``most`` the bytes of its first point: told only where asked
    for, since that would flatter whoever is compared with it.
    """
    best: list[float] = []
    points = sorted(curve)
    for (less, low), (more, high) in pairwise(points):
        if low < wanted <= high:
            best.append(less + (more - less) * (wanted - low) / (high - low))
    if most and points and points[0][1] >= wanted:
        best.append(points[0][0])
    return min(best) if best else None


def curve_of(groups: Mapping[tuple[str, str], Mapping[int, Cell]], method: str) -> Curve:
    """(bytes, accuracy) of a method on the test split."""
    return [
        (mean_of(cells, "test", "bytes"), mean_of(cells, "test", "accuracy"))
        for (one, _), cells in groups.items()
        if one == method
    ]


def picture_curve(cells: Mapping[str, Cell], kind: str, key: str) -> Curve:
    """The same of pictures sent as files."""
    found = [cell["test"] for name, cell in cells.items() if name.startswith(f"{kind} q")]
    return [(test[key], test["accuracy"]) for test in found]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


def methods_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Every method and setting."""
    rows = []
    for (method, setting), seeds in sorted(by_setting(cells).items(), key=lambda pair: pair[0]):
        first = next(iter(seeds.values()))
        accuracy, validation = ([c[split]["accuracy"] for c in seeds.values()] for split in ("test", "validation"))
        size = f"{mean_of(seeds, 'test', 'bytes'):.0f}"
        encoder = f"{first['encoder_bits'] / 8192:.0f} KiB, {first['encoder_macs'] / 1e6:.1f} M"
        rows.append((method, setting, str(len(seeds)), size, _percent(accuracy), _percent(validation), encoder))
    yield from _table(("method", "setting", "seeds", "B", "test %", "validation %", "encoder, its MACs"), rows)


def pictures_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """The whole model on pictures sent as files."""
    rows = []
    for name, cell in cells.items():
        if " q" in name and "seed" not in name:
            test = cell["test"]
            shown = (f"{test['bytes']:.0f}", f"{test['bytes_without_header']:.0f}", f"{100 * test['accuracy']:.1f}")
            rows.append((name, *shown))
    rows.sort(key=lambda row: (row[0].partition(" ")[0], float(row[1])))
    yield from _table(("file", "B", "without header", "test %"), rows)


def pairs_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """McNemar's test by seed, between methods at equal bytes."""
    groups, rows = by_setting(cells), []
    for first, second in _PAIRS:
        for setting in sorted({one for method, one in groups if method == first}):
            other = groups.get((second, setting), {})
            for seed in sorted(set(groups[first, setting]) & set(other)):
                pair = groups[first, setting][seed], other[seed]
                items = item_count(pair[0])
                told = mcnemar(*(right(cell, items) for cell in pair))
                gain = 100 * (pair[1]["test"]["accuracy"] - pair[0]["test"]["accuracy"])
                counts = f"{told.only_first} : {told.only_second}"
                rows.append((f"{first}, {second}", setting, str(seed), f"{gain:+.1f}", counts, f"{told.p:.2g}"))
    yield from _table(("first, second", "setting", "seed", "points", "only right : only right", "p"), rows)


def estimates_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Bytes on the wire beside what the tables say."""
    rows = []
    for name, cell in sorted(cells.items()):
        test = cell["test"]
        if "estimated_payload_bytes" in test:
            payload, estimate = test["bytes"] - _OVERHEAD_BYTES, test["estimated_payload_bytes"]
            over = f"{payload - estimate:+.2f} B ({100 * (payload / estimate - 1):+.2f} %)"
            rows.append((name, f"{estimate:.1f}", f"{payload:.1f}", over))
    yield from _table(("cell", "estimated B", "payload B", "difference"), rows)


def ratios_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Bytes of the other curves over those of a method with a prior, at the whole model's accuracy less some points."""
    whole = cells["whole"]["test"]["accuracy"]
    groups = by_setting(cells)
    others = {f"{kind} {key}": picture_curve(cells, kind, key) for kind in ("webp", "jpeg") for key in _INPUTS}
    others |= {method: curve_of(groups, method) for method in _WHOLE_NUMBERS}
    rows = []
    for method in _PRICED:
        for loss in _LOSSES if curve_of(groups, method) else ():
            base = bytes_at(curve_of(groups, method), whole - loss, most=True)
            found = [bytes_at(curve, whole - loss) for curve in others.values()]
            ratios = [_NONE if base is None or one is None else f"{one / base:.2f}" for one in found]
            rows.append((method, f"-{100 * loss:.0f}", _NONE if base is None else f"{base:.0f}", *ratios))
    yield from _table(("method", "points", "its B", *(name.replace("_", " ") for name in others)), rows)


def same_accuracy_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Bytes of files that leave the whole model the accuracy of each bottleneck, over the bottleneck's bytes."""
    curves = {f"{kind} {key}": picture_curve(cells, kind, key) for kind in ("webp", "jpeg") for key in _INPUTS}
    rows = []
    for (method, setting), seeds in sorted(by_setting(cells).items(), key=lambda pair: pair[0]):
        sent, accuracy = (mean_of(seeds, "test", key) for key in ("bytes", "accuracy"))
        needed = [bytes_at(curve, accuracy) for curve in curves.values()]
        ratios = [_NONE if one is None else f"{one / sent:.2f}" for one in needed]
        rows.append((method, setting, f"{sent:.0f}", f"{100 * accuracy:.1f}", *ratios))
    yield from _table(("method", "setting", "B", "test %", *(name.replace("_", " ") for name in curves)), rows)


def inputs_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Bytes of files at the whole model's accuracy less some points."""
    whole = cells["whole"]["test"]["accuracy"]
    curves = {f"{kind} {key}": picture_curve(cells, kind, key) for kind in ("webp", "jpeg") for key in _INPUTS}
    rows = []
    for loss in _LOSSES:
        found = [bytes_at(curve, whole - loss) for curve in curves.values()]
        rows.append((f"-{100 * loss:.0f}", *(_NONE if one is None else f"{one:.0f}" for one in found)))
    yield from _table(("points", *(name.replace("_", " ") for name in curves)), rows)


def lost_points(whole: Cell, seeds: Sequence[Cell]) -> str:
    """Points below the whole model, and between which it lies for other test pictures (paired, means over seeds)."""
    items = item_count(whole)
    each = 100 * (right(whole, items) - np.mean([right(cell, items) for cell in seeds], axis=0))
    half = 1.96 * float(each.std(ddof=1)) / items**0.5
    return f"{each.mean():.2f} [{each.mean() - half:.2f}, {each.mean() + half:.2f}]"


def savings_table(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Share of bytes that each bottleneck saves, and what it loses."""
    whole = cells["whole"]["test"]
    sizes = {
        "raw": whole["raw_bytes"],
        "PNG": cells["png q0"]["test"]["bytes"],
        "JPEG q95": cells["jpeg q95"]["test"]["bytes"],
    }
    rows = []
    for (method, setting), seeds in sorted(by_setting(cells).items()):
        sent = mean_of(seeds, "test", "bytes")
        saved = [f"{100 * (1 - sent / size):.1f}" for size in sizes.values()]
        rows.append((method, setting, f"{sent:.0f}", lost_points(cells["whole"], list(seeds.values())), *saved))
    head = [f"% fewer than {name} ({size:.0f} B)" for name, size in sizes.items()]
    yield from _table(("method", "setting", "B", "points lost, 95 %", *head), rows)


TABLES = (
    methods_table, same_accuracy_table, savings_table, pairs_table, ratios_table, inputs_table, pictures_table,
    estimates_table,
)  # fmt: skip


def main() -> None:
    """Print all tables of one task."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task")
    cells = read_cells(parser.parse_args().task)
    whole = cells["whole"]
    print(f"Whole model: {100 * whole['test']['accuracy']:.2f} % on {item_count(whole)} test pictures, ", end="")
    print(f"{100 * whole['validation']['accuracy']:.2f} % on validation, {whole['macs'] / 1e6:.1f} M MACs")
    for part in TABLES:
        print(f"\n{str(part.__doc__).splitlines()[0]}\n")
        print("\n".join(part(cells)))


if __name__ == "__main__":
    main()
