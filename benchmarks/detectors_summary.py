"""Tables of the stored figures of detectors, as docs/detection.md shows them.

    python benchmarks/detectors_summary.py

Means over seeds. Points are hundredths of mAP, to the whole detector on the same frames; their interval is of the test
pictures (paired bootstrap), with several seeds the mean of each seed's bounds.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
_SEEDED = re.compile(r"(?P<name>.+) seed (?P<seed>\d+)")
_HELD_OUT = re.compile(r"had not seen its part of \d+, ROC-AUC (?P<area>[\d.]+)")
_NONE = "-"

Cell = Mapping[str, Any]
Seeds = dict[int, Cell]


def read_cells() -> dict[str, Cell]:
    """Cells by name."""
    stored = json.loads((RESULTS / "detectors.json").read_text(encoding="utf-8"))
    return {cell["cell"]: cell for cell in stored["cells"]}


def by_name(cells: Mapping[str, Cell]) -> dict[str, Seeds]:
    """Cells by name and seed; what has no seed is its own."""
    found: dict[str, Seeds] = defaultdict(dict)
    for name, cell in cells.items():
        match = _SEEDED.fullmatch(name)
        found[match["name"] if match else name][int(match["seed"]) if match else 0] = cell
    return dict(found)


def _with_spread(values: list[float], form: str) -> str:
    return f"{fmean(values):{form}}" + (f" ± {stdev(values):{form}}" if len(values) > 1 else "")


def sent(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Bytes and mAP of all that can be sent."""
    yield "| what is sent | seeds | bytes | mAP, validation | mAP, test | AP50, test | points to whole, test | 95 % |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, seeds in sorted(by_name(cells).items()):
        many = list(seeds.values())
        if "map" not in many[0]["test"]:
            continue
        over = [cell["test"]["to_whole"] for cell in many if "to_whole" in cell["test"]]
        points, span = _NONE, _NONE
        if over:
            points = _with_spread([100 * one["value"] for one in over], "z.1f")
            span = " to ".join(f"{100 * fmean(one[end] for one in over):z.1f}" for end in ("low", "high"))
        maps = (_with_spread([cell[split]["map"] for cell in many], ".3f") for split in ("validation", "test"))
        half = f"{fmean(cell['test']['map50'] for cell in many):.3f}"
        sizes = f"{fmean(cell['test']['bytes'] for cell in many):,.0f}"
        yield f"| {name} | {len(many)} | {sizes} | {' | '.join(maps)} | {half} | {points} | {span} |"


def removed(cells: Mapping[str, Cell]) -> Iterator[str]:
    """Which part of HND's loss GHND removes, seed by seed."""
    yield "| lessons | seed | lost by HND, by GHND, validation | removed | lost by HND, by GHND, test | removed |"
    yield "|---|---|---|---|---|---|"
    named, whole = by_name(cells), cells["whole"]
    for name, seeds in sorted(named.items()):
        other = named.get(name.replace("ghnd", "hnd"), {})
        if "ghnd" not in name:
            continue
        rows = {}
        for seed in sorted(seeds.keys() & other.keys()):
            rows[str(seed)] = [
                100 * (whole[split]["map"] - cell[split]["map"])
                for split in ("validation", "test")
                for cell in (other[seed], seeds[seed])
            ]
        if len(rows) > 1:
            rows["all"] = [fmean(column) for column in zip(*rows.values(), strict=True)]
        for seed, (hnd, ghnd, hnd_test, ghnd_test) in rows.items():
            parts = (f"{a:.1f}, {b:.1f} | {100 * (1 - b / a):.0f} %" for a, b in ((hnd, ghnd), (hnd_test, ghnd_test)))
            yield f"| {name.replace('ghnd ', '')} | {seed} | {' | '.join(parts)} |"


def filters(cells: Mapping[str, Cell]) -> Iterator[str]:
    """What filters tell apart and drop."""
    yield (
        "| reads at, share of arithmetic before it | features | ROC-AUC held-out train | ROC-AUC validation |"
        " empty tiles dropped, validation | ROC-AUC test | empty tiles dropped, test | recall, test |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, seeds in sorted(by_name(cells).items()):
        if not name.startswith("filter "):
            continue
        for cell in seeds.values():
            held_out = _HELD_OUT.search(" ".join(cell.get("notes", ())))
            columns = [f"{float(held_out['area']):.3f}" if held_out else _NONE]
            for split in ("validation", "test"):
                told = cell[split]
                columns.append(f"{told['roc_auc']:.3f}")
                columns.append(f"{100 * told['empty_dropped_frac']:.1f} %" if "recall" in told else _NONE)
            columns.append(f"{100 * cell['test']['recall']:.1f} %" if "recall" in cell["test"] else _NONE)
            where, _, pool = name.removeprefix("filter ").partition(" ")
            yield f"| {where} | {pool} | {' | '.join(columns)} |"


TABLES = (sent, removed, filters)


def main() -> None:
    """Print all tables."""
    cells = read_cells()
    for table in TABLES:
        print("\n".join(table(cells)), end="\n\n")


if __name__ == "__main__":
    main()
